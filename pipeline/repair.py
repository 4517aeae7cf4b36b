"""Finds damaged files of the cache and renames them, so that the stages which wrote them write them again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from split_matching.cache.artifact import Artifact, load_artifact
from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.entry import State, read_done
from split_matching.cache.files import rename_damaged
from split_matching.cache.folders import walk_folders
from split_matching.cache.locks import lock_file
from split_matching.errors import CorruptError, format_count
from split_matching.pipeline.plan import Plan, Stage


def verify(plan: Plan, everything: bool = False) -> tuple[list[str], bool]:
    """Read every file that the config reaches, and rename damaged ones.

    Args:
        plan: the plan of the config.
        everything: read all other artifacts of the cache as well, of any config and data set.

    Returns:
        The lines to print, and whether no file is damaged or missing.
    """
    lines = []
    intact = True
    for name, state in plan.states().items():
        damage = rename_damaged_files(plan[name], state)
        intact = intact and not damage
        lines += [f"{line}: run {plan[name].command} again" for line in damage]
        if state.artifact is not None and not damage:
            lines.append(f"{plan[name].command}: {_describe_intact(state.artifact)}")
    if everything:
        more, others_intact = _verify_others(plan)
        lines += more
        intact = intact and others_intact
    return lines or [f"nothing of this config is in {plan.root}"], intact


def _verify_others(plan: Plan) -> tuple[list[str], bool]:
    """Read the artifacts that the config does not reach."""
    lines = []
    intact = True
    reached = {plan[name].entry.folder for name, state in plan.states().items() if state.name != "missing"}
    for folder in walk_folders(plan.root):
        if folder.path in reached or folder.kind not in ("artifact", "damaged"):
            continue
        if folder.artifact is None:
            damage = [f"{folder.name}: its manifest is damaged or absent: `gc` removes it"]
        else:
            damage = [f"{line}: run its config again" for line in _rename_in(folder.name, folder.artifact)]
        intact = intact and not damage
        lines += damage
        if folder.artifact is not None and not damage:
            lines.append(f"{folder.name}: {_describe_intact(folder.artifact)}")
    return lines, intact


def rename_damaged_files(stage: Stage, state: State) -> list[str]:
    """Read every file of a stage, also of an unfinished build, and rename damaged ones; returns one line a file."""
    if state.name == "missing":
        return []
    lines: list[str] = []
    if state.artifact is not None:
        lines += _rename_in(stage.command, state.artifact)
    elif state.name == "corrupt":
        lines.append(f"{stage.command}: {', '.join(state.reasons)}")
    for path in stage.entry.damaged_shards():
        lines.append(f"{stage.command}: {path} is altered, renamed to {_rename(path)}")
    return lines


def rename_if_damaged(plan: Plan, path: Path) -> str:
    """Read one file that a stage could not use, and rename it if it is not as it was written.

    Args:
        plan: of the config whose stage met it.
        path: a file of an artifact, or a shard of a build in progress.

    Returns:
        A line that says what was done; "" if the file is whole, or belongs to no stage of the config.

    Raises:
        UserError: it cannot be read, or not renamed.
    """
    for stage in plan.stages.values():
        for folder, expected in ((stage.entry.folder, _written), (stage.entry.partial, _finished)):
            if folder not in path.parents:
                continue
            name = path.relative_to(folder).as_posix()
            # nobody makes the shard again meanwhile; a finished artifact has no such lock, and needs none
            lock = lock_file(folder / f"{name}.lock") if folder == stage.entry.partial else contextlib.nullcontext()
            with explain_disk_errors(path), lock:
                sha256 = expected(stage, name)
                missing = sha256 and not path.exists()
                renamed = rename_damaged(path, sha256) if sha256 else None
            what = "missing" if missing else f"altered, renamed to {renamed}"
            return f"{stage.command}: {path} is {what}" if renamed else ""
    return ""


def _written(stage: Stage, name: str) -> str:
    """The sha256 of a file of the artifact; "" without any."""
    try:
        entry = stage.artifact().manifest["files"].get(name, {})
    except CorruptError:
        return ""
    return str(entry.get("sha256", ""))


def _finished(stage: Stage, name: str) -> str:
    """The sha256 of a finished shard of the build in progress; "" without any."""
    done = read_done(stage.entry.partial / name)
    return str(done["sha256"]) if done else ""


def _rename_in(name: str, artifact: Artifact) -> list[str]:
    """Read every file of an artifact and rename damaged ones; returns one line a file."""
    lines = []
    for file in artifact.damaged_files():
        path = artifact.path / file
        if not _is_still_there(artifact):  # a run has made it again since its manifest was read
            break
        what = f"altered, renamed to {_rename(path)}" if path.exists() else "missing"
        lines.append(f"{name}: {path} is {what}")
    return lines


def _is_still_there(artifact: Artifact) -> bool:
    try:
        return bool(load_artifact(artifact.path).manifest["digest"] == artifact.manifest["digest"])
    except CorruptError:
        return False


def _rename(path: Path) -> Path | None:
    with explain_disk_errors(path):
        return rename_damaged(path)


def _describe_intact(artifact: Artifact) -> str:
    return f"{format_count(len(artifact.manifest['files']), 'file')} as written"
