"""The verbs `diff`, `adopt` and `gc`: what tells two artifacts apart, accepting code, and making room."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from split_matching.cache.folders import (
    DAY,
    Folder,
    accept_code,
    find_key,
    folders,
    idle_seconds,
    in_use,
    inputs_of_build,
    remove_folder,
)
from split_matching.cache.keys import changed
from split_matching.cache.store import KEY_LENGTH, Artifact
from split_matching.configs.load import known_datasets, load_config
from split_matching.configs.schema import Config
from split_matching.errors import ConfigError, CorruptError, UserError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.text import describe_change, describe_state, flatten, format_count, format_size

Place = tuple[str, str]
"""Data set and slug."""

# --- diff -------------------------------------------------------------------------------------------------------------


def diff_lines(plan: Plan, first: str, second: str) -> list[str]:
    """Return what tells two artifacts apart: config, code, inputs, environment, and what came out.

    Args:
        plan: names the cache.
        first: beginning of a key.
        second: beginning of another.

    Raises:
        UserError: a key names no artifact, or several.
    """
    before, after = find_key(plan.store, first), find_key(plan.store, second)
    lines = [f"- {_title(before)}", f"+ {_title(after)}"]
    if before.path == after.path:
        return [*lines, "", "the same artifact"]
    one, two = before.manifest, after.manifest
    parts = {
        "config": _differing(flatten(one["config"]), flatten(two["config"])),
        "code": [f"{name}{_only(name, one['code'], two['code'])}" for name in changed(one["code"], two["code"])],
        "inputs": [
            f"{name}{_only(name, one['inputs'], two['inputs'])}" for name in changed(one["inputs"], two["inputs"])
        ],
        "environment": _differing(
            {"host": one.get("host"), **one.get("versions", {})}, {"host": two.get("host"), **two.get("versions", {})}
        ),
        "results": _differing(one["summary"], two["summary"]),
    }
    for name, found in parts.items():
        lines += ["", f"{name}: {'' if found else 'the same'}".rstrip(), *(f"  {line}" for line in found)]
    same = before.content == after.content
    return [*lines, "", f"contents: {'the same' if same else 'different'}"]


def _title(artifact: Artifact) -> str:
    manifest = artifact.manifest
    return f"{manifest['stage']} {artifact.key[:KEY_LENGTH]} ({manifest['dataset']}), made {manifest['created'][:19]}"


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [f"{name}: {describe_change(before.get(name, 'none'), after.get(name, 'none'))}" for name in names]


def _only(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    return "" if name in before and name in after else f" (only in {'+' if name in after else '-'})"


# --- adopt ------------------------------------------------------------------------------------------------------------


def adopt_lines(plan: Plan, stages: Sequence[str]) -> list[str]:
    """Accept the present code for the artifacts of some stages, and return what was accepted.

    Raises:
        CorruptError: there is no artifact, or its manifest is damaged.
        UserError: the cache cannot be written.
    """
    lines = []
    for name in stages:
        slug = plan.named(name).slug
        artifact = plan.artifact(slug)
        accepted = accept_code(artifact, plan.recipe(slug).code)
        what = f"accepted the present {', '.join(accepted)}" if accepted else "its code is the present one"
        lines.append(f"{name}: {what} for {artifact.path}")
        state = plan.state(slug)
        lines.append(f"{name}: {describe_state(state)}")
    return lines


# --- gc ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sorted:
    """What gc found.

    Args:
        kept: folders and why they are kept.
        removed: folders and why they go.
    """

    kept: list[tuple[Folder, str]] = field(default_factory=list)
    removed: list[tuple[Folder, str]] = field(default_factory=list)


def gc(plan: Plan, variants: Sequence[Config], keep: int, *, dry_run: bool, yes: bool) -> int:
    """Remove what no known config reaches, except for the newest; show sizes, and ask.

    Args:
        plan: names the cache.
        variants: configs that are known beside those of `configs/`.
        keep: how many others to keep of each stage, newest first.
        dry_run: remove nothing.
        yes: do not ask.

    Returns:
        The exit code.

    Raises:
        ConfigError: nobody can be asked.
        UserError: the cache cannot be written.
    """
    found = sort_folders(plan, [*_known(plan), *variants], keep)
    sizes = {folder.path: plan.store.size(folder.path) for folder, _ in [*found.kept, *found.removed]}
    for word, members in (("keep", found.kept), ("remove", found.removed)):
        for folder, why in members:
            print(f"{word:<6}  {format_size(sizes[folder.path]):>8}  {folder.name}  ({why})")
    room = format_size(sum(sizes[folder.path] for folder, _ in found.removed))
    rest = format_size(sum(sizes[folder.path] for folder, _ in found.kept))
    verb = "would remove" if dry_run else "removes"
    print(f"{verb} {format_count(len(found.removed), 'folder')}, {room}; keeps {len(found.kept)}, {rest}")
    if dry_run or not found.removed or not (yes or _agreed()):
        return 0
    for folder, _ in found.removed:
        if not remove_folder(folder):
            print(f"{folder.name} is in use: left as it is", file=sys.stderr)
    return 0


def _agreed() -> bool:
    if not sys.stdin or not sys.stdin.isatty():
        raise ConfigError("gc asks before it removes, and nobody can answer: give --yes, or --dry-run to look only")
    return input("remove them? [y/N] ").strip().lower() in ("y", "yes")


def _known(plan: Plan) -> Iterator[Config]:
    """The configs of `configs/`, with the cache of the plan."""
    for name in known_datasets():
        with contextlib.suppress(ConfigError):
            config = load_config(name)
            yield config.model_copy(update={"runtime": plan.config.runtime})


def sort_folders(plan: Plan, configs: Sequence[Config], keep: int) -> Sorted:
    """Decide about every folder of the cache; changes nothing.

    A stage whose key cannot be told for some config (its raw files are not there) keeps all of its artifacts.
    """
    reached, resumed, untold = _reached([Plan(config) for config in configs])
    found = Sorted()
    others: dict[Place, list[Folder]] = {}
    for folder in folders(plan.store):
        if folder.kind == "artifact" and folder.path not in reached and folder.place not in untold:
            others.setdefault(folder.place, []).append(folder)
        else:
            why = _why_kept(folder, reached, resumed, untold)
            target, reason = (found.kept, why) if why else (found.removed, _why_removed(folder))
            target.append((folder, reason))
    needed = [inputs_of_build(folder.path) for folder, _ in found.kept if folder.kind == "partial"]
    for members in others.values():
        members.sort(key=_created, reverse=True)
        for rank, folder in enumerate(members):
            if any(_feeds(folder, inputs) for inputs in needed):
                found.kept.append((folder, "read by a build in progress"))
            elif rank < keep:
                found.kept.append((folder, f"newest {keep} that no config reaches" if keep > 1 else "newest other"))
            else:
                found.removed.append((folder, "no known config reaches it"))
    return found


def _reached(plans: Sequence[Plan]) -> tuple[dict[Path, str], set[Path], set[Place]]:
    """Return the folders that configs reach, the builds that they would go on with, and stages without a known key."""
    reached: dict[Path, str] = {}
    resumed: set[Path] = set()
    untold: set[Place] = set()
    for plan in plans:
        for slug in plan.stages:
            try:
                folder = plan.folder(slug)
                reached.setdefault(folder, f"reached by {plan.config.dataset}")
                if plan.store.is_begun(plan.recipe(slug)):
                    resumed.add(plan.store.partial(folder))
            except UserError:
                untold.add((plan.config.dataset, slug))
    return reached, resumed, untold


def _why_kept(folder: Folder, reached: Mapping[Path, str], resumed: set[Path], untold: set[Place]) -> str:
    """Return why a folder is not to be removed; "" if it is. Not for artifacts that no config reaches."""
    if folder.path in reached:
        return reached[folder.path]
    if folder.kind == "artifact":
        return "its config's data are not there to tell"
    if folder.kind == "partial" and in_use(folder.path):
        return "in use"
    if folder.path.name.endswith(".old"):
        return ""
    if folder.kind == "partial" and (folder.path in resumed or folder.place in untold):
        return "the next run goes on from it"
    return "younger than a day" if idle_seconds(folder.path) < DAY else ""


def _why_removed(folder: Folder) -> str:
    return {"partial": "abandoned", "leftover": "left by a process that ended"}.get(folder.kind, folder.kind)


def _created(folder: Folder) -> str:
    return str(folder.artifact.manifest["created"]) if folder.artifact else ""


def _feeds(folder: Folder, inputs: Mapping[str, str]) -> bool:
    """Whether an artifact holds what a build in progress was begun from."""
    for name, content in inputs.items():
        slug, _, file = name.partition("/")
        if folder.artifact and slug == folder.place[1]:
            with contextlib.suppress(CorruptError):
                if folder.artifact.content_of((file,) if file else ()) == content:
                    return True
    return False
