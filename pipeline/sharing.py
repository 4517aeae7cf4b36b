"""What is shared at `runtime.remote`: which artifacts to fetch before a run, to push and to pull."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import Artifact, load_artifact
from split_matching.cache.folders import find_artifact, is_key
from split_matching.cache.remote import Remote, place_of
from split_matching.errors import ConfigError, CorruptError, DataError, did_you_mean, format_count, one_line
from split_matching.pipeline.arguments import load_plan
from split_matching.pipeline.plan import RAW_TIMES, Plan, Stage
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.text import describe_state, format_size, join_words

ABSENT = "is not there"


def open_remote(plan: Plan) -> Remote:
    """Return what the config names.

    Raises:
        ConfigError: it names nothing.
        UserError: it cannot be opened.
    """
    if plan.config.runtime.remote is None:
        raise ConfigError("no address is given: --remote s3://BUCKET/PATH, or another one of fsspec (runtime.remote)")
    return Remote(plan.config.runtime.remote)


def pull_missing(stage: Stage, display: ProgressDisplay, forced: bool = False) -> None:
    """Fetch what a run of a stage would make, as far as somebody has pushed it as it would be made here.

    Opens the address only if something is missing: what is fresh needs no network.

    Args:
        stage: the wanted stage.
        display: where is shown what is fetched.
        forced: the stage itself is to be made again.

    Raises:
        UserError: the remote cannot be read. What is damaged there is told, and made here.
    """
    remote: Remote | None = None
    for member in stage.plan.closure(stage.name):
        if member.own_state.fresh or (forced and member is stage):
            continue
        remote = remote or open_remote(stage.plan)
        try:
            manifest = remote.manifest(_place(member))
            if manifest is not None and not _differences(member, manifest):
                display.say(_pull(remote, member.plan, _place(member), member.command, manifest, display))
        except CorruptError as error:
            display.say(f"{member.command}: {error}; it is made here")


def push(plan: Plan, names: Sequence[str], display: ProgressDisplay, verify: bool = False) -> Iterator[str]:
    """Push artifacts, and yield a line for each once it is there.

    The first one wins: what is at the address stays, if it is whole.

    Args:
        plan: of the config.
        names: stages or keys; none for all stages that are fresh.
        display: where progress is shown.
        verify: read the files that are there; else only their sizes are compared.

    Raises:
        CorruptError: a file there is missing or altered, and is not here.
        DataError: there is no such artifact, or the stage is not fresh, or the address has one of other code or inputs
            in the place of one that was named.
        UserError: the remote cannot be written.
    """
    remote, artifacts = open_remote(plan), _local(plan, names)
    for name, artifact in artifacts:
        place = place_of(artifact)
        there = remote.manifest(place)
        if there is None:
            sent = remote.push(artifact, _counter(display, name), verify)
            display.end(name)
            yield f"{name}: pushed {_describe(artifact.manifest, sent)}, {place}"
        elif _made_alike(there, artifact.manifest):
            sent = remote.mend(artifact, there, _counter(display, name), verify)
            display.end(name)
            mended = f"{format_size(sent)} of it sent again (missing or altered there), "
            yield f"{name}: is there already, {mended if sent else ''}{place}"
        else:
            why = (
                f"{name}: not pushed, one of other code or inputs is there: to replace it, first remove {place}.json at"
            )
            if names:
                raise DataError(f"{why} {remote.address}")
            yield f"{why} {remote.address}"
    if not artifacts:
        yield "nothing is fresh: nothing was pushed"


def pull(plan: Plan, names: Sequence[str], display: ProgressDisplay) -> list[str]:
    """Pull artifacts, and return a line for each.

    Of stages only what would be fresh here is pulled, by keys whatever has the key; neither replaces what is as good.

    Args:
        plan: of the config.
        names: stages or keys; none for all stages of the config.
        display: where progress is shown.

    Raises:
        DataError: a stage or key that was named is not there, or would be stale here, or something else is here.
        UserError: the remote cannot be read, or has something else than was pushed.
    """
    remote, lines = open_remote(plan), []
    for name in names or [stage.command for stage in plan.stages.values()]:
        stage = plan.stage(name) if _is_stage(plan, name) else None
        place = _place(stage) if stage else _find(remote, name)
        manifest = remote.manifest(place)
        if manifest is None and names:
            raise DataError(f"{name}: {place} is not at {remote.address}: push it there first")
        if manifest is None:
            lines.append(f"{name}: {ABSENT}")
        elif stage.own_state.fresh if stage else _is_here(plan.root / place, manifest):
            lines.append(f"{name}: is here already, {place}")
        elif stage and (reasons := _differences(stage, manifest, known=not stage.entry.folder.exists())):
            why = f"{name}: not pulled, it would be stale here ({join_words(reasons)})"
            if names:
                raise DataError(f"{why}: run the stage, or pull it by its key, {place}")
            lines.append(why)
        else:
            line = _pull(remote, plan, place, name, manifest, display)
            lines.append(
                f"{line}; here it is {describe_state(stage.state)}" if stage and not stage.state.fresh else line
            )
    if all(line.endswith(ABSENT) for line in lines):
        raise DataError(f"{remote.address}: nothing of this config is there: check the address, or push it first")
    return lines


def _is_here(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether an artifact is here, undamaged as far as can be seen.

    Raises:
        DataError: another one is in its place.
    """
    try:
        artifact = load_artifact(folder)
    except CorruptError:
        return False
    if artifact.manifest["digest"] != manifest["digest"]:
        raise DataError(
            f"{folder} is not the artifact that was pushed under its key: to pull that, first remove the folder"
        )
    return not artifact.visible_damage()


def _local(plan: Plan, names: Sequence[str]) -> list[tuple[str, Artifact]]:
    states = plan.states()
    fresh = {plan[name].command: state.artifact for name, state in states.items() if state.fresh and state.artifact}
    if not names:
        return list(fresh.items())
    found = []
    for name in names:
        if _is_stage(plan, name) and name not in fresh:
            state = describe_state(states[plan.stage(name).name])
            raise DataError(
                f"{name} is {state}: run it first; an artifact of other code or inputs is pushed by its key"
            )
        found.append((name, fresh[name] if name in fresh else find_artifact(plan.root, name)))
    return found


def _is_stage(plan: Plan, name: str) -> bool:
    """Whether a name is a stage, not a key.

    Raises:
        ConfigError: it is neither.
    """
    stages = [kind.__name__ for kind in plan.table]
    if name not in stages and not is_key(name):
        expected = f"expected a stage, or the first digits of a key ({', '.join(stages)})"
        raise ConfigError(f"{name!r} is no stage and no key: {did_you_mean(name, stages) or expected}")
    return name in stages


def _place(stage: Stage) -> str:
    return "/".join(stage.entry.folder.parts[-3:])


def _find(remote: Remote, name: str) -> str:
    """Return the place of the only artifact whose key begins so."""
    found = remote.find(name)
    if not found:
        raise DataError(f"{name}: no artifact at {remote.address} has a key that begins so")
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} keys at {remote.address} begin with {name} ({', '.join(found[:4])}): give more"
        )
    return found[0]


def _differences(stage: Stage, manifest: Mapping[str, Any], known: bool = False) -> list[str]:
    """Return why an artifact would not be fresh here; a copy of raw files has other times, and is compared later.

    Args:
        stage: its stage.
        manifest: its manifest.
        known: compare only the inputs that are here; those of an empty cache may be pulled next.
    """
    absent = [name for name, content in stage.recipe.inputs.items() if known and not content]
    reasons = stage.entry.differences(manifest, stage.recipe)
    return [reason for reason in reasons if reason not in [f"input {name} changed" for name in (RAW_TIMES, *absent)]]


def _made_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("key", "code", "inputs"))


def _pull(
    remote: Remote, plan: Plan, place: str, name: str, manifest: Mapping[str, Any], display: ProgressDisplay
) -> str:
    artifact = remote.pull(plan.root, place, manifest, _counter(display, name))
    display.end(name)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return f"{name}: pulled {_describe(manifest, size)}, {artifact.path}"


def _describe(manifest: Mapping[str, Any], size: int) -> str:
    return f"{format_count(len(manifest['files']), 'file')}, {format_size(size)}"


def _counter(display: ProgressDisplay, name: str) -> Callable[[int, int], None]:
    counter = display.counter(name)

    def count(done: int, total: int) -> None:
        display.start(name, total)
        counter(done, total)

    return count


def share(options: argparse.Namespace, work: Callable[[Plan, Sequence[str], ProgressDisplay], Iterable[str]]) -> int:
    """Push or pull what the options of the verb name, print a line for each, and return the exit code."""
    plan = load_plan(options)
    names = options.names or [stage.command for stage in plan.stages.values()]
    display = ProgressDisplay(names, ["files"] * len(names))
    for line in work(plan, options.names, display):
        display.clear()
        print(one_line(line), flush=True)
    return 0
