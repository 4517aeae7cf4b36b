"""The verb `gc`: removes what no known config reaches."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from split_matching.cache.files import folder_size
from split_matching.cache.folders import Folder, idle_seconds, is_in_use, read_inputs, remove_folder, walk_folders
from split_matching.cache.notes import list_notes
from split_matching.cache.running import claimed_folders, hold_cache
from split_matching.configs.load import known_datasets, load_config
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError, CorruptError, UserError, format_count
from split_matching.pipeline.arguments import (
    add_config_options,
    add_variants_option,
    load_plan,
    overrides_of,
    whole_number,
)
from split_matching.pipeline.known_runs import list_runs
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.events import event_folders
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.text import format_size

DAY = 86400.0  # seconds

HELP = "remove what no known config reaches; shows sizes, and asks"
DESCRIPTION = """
Removes what no known config reaches. Known configs are all in configs/, the given one as it is, with --set, with each
--set-file alone, with all of them and --set, and with each of its --variants. Of the other artifacts the newest of
each stage are kept (--keep), with what they were made from, and of a data set that no known config names at least
one. Other data sets than the given one are left alone without --all. Files that a killed process left are removed as
well, and unfinished builds that nobody has written to for a day and that no known config continues. Never removed:
runs with a name or note, what a running process makes or reads, what an unfinished build reads, and the artifacts of
a stage whose key is unknown because its raw files are not there. What TensorBoard shows of a training goes with the
training.
"""
EXIT_CODES = "0 done, or nothing to do, 2 wrong usage or config, or nobody to ask"
EXAMPLES = ("gc --dataset shapes --variants configs/ablations/*.yaml --keep 5 --dry-run",)

Place = tuple[str, str]
"""Data set and name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gc`."""
    add_config_options(parser)
    add_variants_option(parser, "what they reach is kept")
    parser.add_argument(
        "--keep",
        type=whole_number(0),
        default=1,
        metavar="N",
        help="artifacts of each stage to keep that no config reaches, newest first (default: 1)",
    )
    parser.add_argument("--all", action="store_true", help="the other data sets of the cache as well")
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and remove nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    """Decide what to remove, ask, and remove it."""
    plan = load_plan(options)
    overrides = overrides_of(options)
    known = [load_config(options.dataset), load_config(options.dataset, [], overrides), *_with_each(options)]
    known += [load_config(options.dataset, [*options.set_file, file], overrides) for file in options.variants]
    dataset = "" if options.all else plan.config.dataset
    return collect_garbage(plan, [plan.config, *known], options.keep, dataset, dry_run=options.dry_run, yes=options.yes)


def _with_each(options: argparse.Namespace) -> list[Config]:
    """Return the config with each --set-file alone: an ablation that was run by it is not to be lost."""
    found = []
    for file in options.set_file:
        with contextlib.suppress(ConfigError):  # it may need the others
            found.append(load_config(options.dataset, [file], overrides_of(options)))
    return found


@dataclass(frozen=True)
class Decision:
    """What is to become of the folders of the cache.

    Args:
        kept: folders to keep, with the reason.
        removed: folders to remove, with the reason.
    """

    kept: list[tuple[Folder, str]] = field(default_factory=list)
    removed: list[tuple[Folder, str]] = field(default_factory=list)


def collect_garbage(
    plan: Plan, variants: Sequence[Config], keep: int, dataset: str = "", *, dry_run: bool, yes: bool
) -> int:
    """Remove what no known config reaches, except the newest artifacts; show sizes, and ask.

    Args:
        plan: names the cache.
        variants: known configs besides those of `configs/`.
        keep: number of other artifacts of each stage to keep, newest first.
        dataset: the only data set to look at; "" for all.
        dry_run: remove nothing.
        yes: do not ask.

    Returns:
        The exit code.

    Raises:
        ConfigError: nobody can answer, or a config in `configs/` cannot be read.
        UserError: the cache cannot be written.
    """
    _check_readable(plan.root)
    configs = [*_known_configs(plan, dataset), *variants]
    found = decide(plan, configs, keep, dataset)
    sizes = {folder.path: folder_size(folder.path) for folder, _ in [*found.kept, *found.removed]}
    for word, members in (("keep", found.kept), ("remove", found.removed)):
        for folder, why in members:
            print(f"{word:<6}  {format_size(sizes[folder.path]):>8}  {folder.name}  ({why})")
    room = format_size(sum(sizes[folder.path] for folder, _ in found.removed))
    rest = format_size(sum(sizes[folder.path] for folder, _ in found.kept))
    verb = "would remove" if dry_run else "removes"
    print(f"{verb} {format_count(len(found.removed), 'folder')}, {room}; keeps {len(found.kept)}, {rest}")
    if dry_run or not found.removed or not (yes or _ask()):
        return 0
    with hold_cache(plan.root):  # no run starts meanwhile; one that started while the user thought is seen
        still = {folder.path for folder, _ in decide(plan, configs, keep, dataset).removed}
        for folder, _ in found.removed:
            if folder.path not in still or not remove_folder(folder):
                print(f"{folder.name} is in use: left as it is", file=sys.stderr)
    return 0


def _check_readable(root: Path) -> None:
    """Reject a cache with a folder that may not be read: what is in there needs others, and nobody knows which."""
    for folder in (root, *root.glob("*"), *root.glob("*/*")):
        try:
            if folder.is_dir():
                os.scandir(folder).close()
        except PermissionError:
            raise UserError(
                f"{folder}: permission denied, so nobody knows what it was made from: let its owner run gc"
            ) from None


def _ask() -> bool:
    if not sys.stdin or not sys.stdin.isatty():
        raise ConfigError("gc asks before it removes, and nobody can answer: give --yes, or --dry-run to look only")
    return input("remove them? [y/N] ").strip().lower() in ("y", "yes")


def _known_configs(plan: Plan, dataset: str) -> Iterator[Config]:
    """The configs of `configs/`, with the cache of the plan.

    Raises:
        ConfigError: one cannot be read, so nobody knows what it reaches; unless its data set is not looked at.
    """
    for name in known_datasets():
        try:
            yield load_config(name).model_copy(update={"runtime": plan.config.runtime})
        except ConfigError:
            if dataset in ("", name):
                raise


def decide(plan: Plan, configs: Sequence[Config], keep: int, dataset: str = "") -> Decision:
    """Decide about every folder of the cache, or of one data set of it; change nothing.

    All artifacts are kept of a stage whose key is unknown for some config, because its raw files are not there.
    """
    plans = [make_plan(config) for config in configs]
    reached, resumed, unknown = _find_reached(plans)
    for path, who in claimed_folders(plan.root).items():
        reached[path] = f"in use by {who}"
    known = {other.config.dataset for other in plans}
    found = Decision()
    others: dict[Place, list[Folder]] = {}
    with_note = _find_noted(plan.root)
    for folder in walk_folders(plan.root):
        if dataset and folder.place[0] != dataset:
            continue
        if folder.kind == "artifact" and folder.path not in reached and folder.place not in unknown:
            others.setdefault(folder.place, []).append(folder)
        else:
            why = _why_kept(folder, reached, resumed, unknown)
            target, reason = (found.kept, why) if why else (found.removed, _why_removed(folder))
            target.append((folder, reason))
    needed = [read_inputs(folder.path) for folder, _ in found.kept if folder.kind == "partial"]
    sources: list[dict[str, str]] = []
    for place, members in others.items():
        noted = [folder for folder in members if folder.path in with_note]
        found.kept.extend((folder, "has a name or note") for folder in noted)
        members.sort(key=_created, reverse=True)
        newest = [folder for folder in members if folder not in noted][: keep if place[0] in known else max(keep, 1)]
        why = f"newest {keep} that no config reaches" if keep > 1 else "newest other"
        found.kept.extend((folder, why) for folder in newest)
        sources.extend(dict(folder.artifact.manifest["inputs"]) for folder in [*noted, *newest] if folder.artifact)
    rest = [folder for members in others.values() for folder in members if folder not in [f for f, _ in found.kept]]
    for folder in [folder for folder in rest if any(_is_input(folder, inputs) for inputs in needed)]:
        rest.remove(folder)
        found.kept.append((folder, "read by an unfinished build"))
        sources.append(dict(folder.artifact.manifest["inputs"]) if folder.artifact else {})
    _keep_sources(found, rest, sources)
    found.removed.extend((folder, "no known config reaches it") for folder in rest)
    found.removed.extend((folder, "of no training that is kept") for folder in _stray_events(plan.root, dataset, found))
    return found


def _stray_events(root: Path, dataset: str, found: Decision) -> Iterator[Folder]:
    """Yield what TensorBoard shows of trainings that are not kept."""
    kept = {(folder.place[0], folder.path.name[:8]) for folder, _ in found.kept}
    for path in event_folders(root):
        folder = Folder(path, "events")
        if dataset in ("", folder.place[0]) and (folder.place[0], path.name[-8:]) not in kept:
            yield folder


def _keep_sources(found: Decision, rest: list[Folder], sources: list[dict[str, str]]) -> None:
    """Move to what is kept the newest of the rest for each source that is not kept yet, and its sources, and so on."""
    while sources:
        for name, content in sources.pop().items():
            if any(_is_input(folder, {name: content}) for folder, _ in found.kept):
                continue
            source = next((folder for folder in rest if _is_input(folder, {name: content})), None)
            if source is not None and source.artifact is not None:
                rest.remove(source)
                found.kept.append((source, "what is kept was made from it"))
                sources.append(dict(source.artifact.manifest["inputs"]))


def _find_reached(plans: Sequence[Plan]) -> tuple[dict[Path, str], set[Path], set[Place]]:
    """Return the folders that configs reach, the builds that they continue, and the stages with an unknown key."""
    reached: dict[Path, str] = {}
    resumed: set[Path] = set()
    unknown: set[Place] = set()
    for plan in plans:
        for name, stage in plan.stages.items():
            try:
                reached.setdefault(stage.entry.folder, f"reached by {plan.config.dataset}")
                if stage.entry.has_build(stage.recipe):
                    resumed.add(stage.entry.partial)
            except UserError:
                unknown.add((plan.config.dataset, name))
    return reached, resumed, unknown


def _why_kept(folder: Folder, reached: Mapping[Path, str], resumed: set[Path], unknown: set[Place]) -> str:
    """Return why a folder is kept; "" if it is not. Not for artifacts that no config reaches."""
    if folder.path in reached:
        return reached[folder.path]
    if folder.kind == "artifact":
        return "the raw files of its config are not there, so its key is unknown"
    if folder.kind == "partial" and is_in_use(folder.path):
        return "in use"
    if folder.path.name.endswith(".old"):
        return ""
    if folder.kind == "partial" and (folder.path in resumed or folder.place in unknown):
        return "the next run continues from it"
    return "younger than a day" if idle_seconds(folder.path) < DAY else ""


def _why_removed(folder: Folder) -> str:
    return {"partial": "abandoned", "leftover": "left by a process that ended"}.get(folder.kind, folder.kind)


def _find_noted(root: Path) -> set[Path]:
    """Return the artifacts that have a name or note, and the training and evaluation of runs that have one."""
    noted = list_notes(root)
    found = {folder.path for folder in walk_folders(root) if (folder.place[0], folder.path.name) in noted}
    for run in list_runs(root):
        if any(artifact.path in found for artifact in run.own):
            found.update(artifact.path for artifact in run.own)
    return found


def _created(folder: Folder) -> str:
    return str(folder.artifact.manifest["created"]) if folder.artifact else ""


def _is_input(folder: Folder, inputs: Mapping[str, str]) -> bool:
    """Whether an artifact is an input of an unfinished build, given by its inputs."""
    for name, content in inputs.items():
        stage, _, file = name.partition("/")
        if folder.artifact and stage == folder.place[1]:
            with contextlib.suppress(CorruptError):
                if folder.artifact.content_of((file,) if file else ()) == content:
                    return True
    return False
