"""Finds damaged files of the cache and renames them, so that the stages which wrote them write them again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from split_matching.cache.artifact import Artifact, load_artifact
from split_matching.cache.disk_errors import explain_disk_errors, explain_read_errors
from split_matching.cache.entry import State, read_done
from split_matching.cache.files import file_size, rename_damaged
from split_matching.cache.folders import walk_folders
from split_matching.cache.locks import lock_file
from split_matching.cache.names import MANIFEST
from split_matching.errors import CorruptError, UserError, format_count
from split_matching.pipeline.plan import Plan, Stage

Line = tuple[str, int]
"""What is printed, and the exit code that it asks for: 0, or that of a CorruptError or UserError."""


def verify(plan: Plan, everything: bool = False) -> tuple[list[str], int]:
    """Read every file that the config reaches, and rename damaged ones.

    Args:
        plan: the plan of the config.
        everything: read all other artifacts of the cache as well, of any config and data set.

    Returns:
        The lines to print, and the exit code: 0 if all files are as they were written, 4 if one is damaged or missing,
        else 1 if one cannot be read.
    """
    found: list[Line] = []
    for name, state in plan.states().items():
        found += _check_stage(plan[name], state)
    if everything:
        found += _check_others(plan)
    lines = [line for line, _ in found] or [f"nothing of this config is in {plan.root}"]
    return lines, max((code for _, code in found), default=0)


def _check_stage(stage: Stage, state: State) -> list[Line]:
    """Read every file of a stage, also of an unfinished build, and rename damaged ones."""
    artifact, then = state.artifact, f"run {stage.command} again"
    if state.name == "missing":
        return []
    found: list[Line] = []
    try:
        with explain_read_errors(stage.entry.folder):
            if state.name == "unreadable":  # it, or a stage before it
                artifact = stage.artifact() if file_size(stage.entry.folder / MANIFEST) is not None else None
            if artifact is not None:
                found += _check(stage.command, artifact, then)
            elif state.name == "corrupt":
                found.append((f"{stage.command}: {', '.join(state.reasons)}: {then}", CorruptError.exit_code))
            damaged = stage.entry.damaged_shards()
    except UserError as error:
        return [*found, (f"{stage.command}: {error}", error.exit_code)]
    for path in damaged:
        line = f"{stage.command}: {path} is altered, {_rename(path)}: {then}"
        found.append((line, CorruptError.exit_code))
    return found


def _check_others(plan: Plan) -> list[Line]:
    """Read the artifacts that the config does not reach."""
    found: list[Line] = []
    skipped: list[str] = []
    reached = {plan[name].entry.folder for name, state in plan.states().items() if state.name != "missing"}
    for folder in walk_folders(plan.root, skipped.append):
        if folder.path in reached or folder.kind not in ("artifact", "damaged"):
            continue
        if folder.artifact is None:
            line = f"{folder.name}: its manifest is damaged or absent: `gc` removes it"
            found.append((line, CorruptError.exit_code))
        else:
            found += _check(folder.name, folder.artifact, "run its config again")
    return [*found, *((line, UserError.exit_code) for line in skipped)]


def _check(name: str, artifact: Artifact, then: str) -> list[Line]:
    """Read every file of an artifact and rename damaged ones.

    Returns:
        A line for each damaged file, and one for all that cannot be read; one if all are whole.
    """
    found: list[Line] = []
    unread: list[str] = []
    for file in artifact.manifest["files"]:
        path = artifact.path / file
        try:
            damaged = artifact.is_damaged(file)
        except UserError as error:
            unread.append(str(error))
            continue
        if damaged and not _is_still_there(artifact):
            break  # a run has made it again since its manifest was read
        if damaged:
            what = f"altered, {_rename(path)}" if path.exists() else "missing"
            found.append((f"{name}: {path} is {what}: {then}", CorruptError.exit_code))
    if unread:
        more = f"; nor can {format_count(len(unread) - 1, 'other file')}" if len(unread) > 1 else ""
        found.append((f"{name}: {unread[0]}{more}", UserError.exit_code))
    elif not found and _is_still_there(artifact):
        found.append((f"{name}: {format_count(len(artifact.manifest['files']), 'file')} as written", 0))
    return found


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


def _is_still_there(artifact: Artifact) -> bool:
    try:
        return bool(load_artifact(artifact.path).manifest["digest"] == artifact.manifest["digest"])
    except UserError:
        return False


def _rename(path: Path) -> str:
    """Rename a damaged file, and return what became of it."""
    try:
        with explain_disk_errors(path):
            return f"renamed to {rename_damaged(path)}"
    except UserError as error:  # the other files are to be read all the same
        return f"but not renamed ({error})"
