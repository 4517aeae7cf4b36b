"""What an artifact was made from: followed back through the cache by the manifests alone, without any config."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from split_matching.cache.artifact import Artifact, load_artifact
from split_matching.cache.entry import KEY_LENGTH
from split_matching.errors import CorruptError, UserError


def trace(artifact: Artifact) -> dict[str, Artifact]:
    """Return an artifact and all that it was made from, by the names of their stages, upstream first.

    What was removed from the cache since, or may not be read, is left out, with what only it leads to.
    """
    found: dict[str, Artifact] = {}
    begun = {artifact.stage}

    def visit(member: Artifact) -> None:
        for name, source in _sources(member).items():
            if name not in begun:
                begun.add(name)
                visit(source)
        found[member.stage] = member

    visit(artifact)
    return found


def _sources(artifact: Artifact) -> dict[str, Artifact]:
    """Return what an artifact was made from directly."""
    folder, manifest = artifact.path.parent.parent, artifact.manifest
    if "upstream" not in manifest:
        return _find_by_content(folder, manifest["inputs"])
    found = {}
    for name, key in manifest["upstream"].items():
        with contextlib.suppress(UserError):
            found[str(name)] = load_artifact(folder / name / key[:KEY_LENGTH])
    return found


def _find_by_content(folder: Path, inputs: Mapping[str, str]) -> dict[str, Artifact]:
    """Return the newest artifacts with the contents of inputs: early manifests do not name the keys of these."""
    wanted: dict[str, dict[str, str]] = {}
    for name, content in inputs.items():
        stage, _, part = name.partition("/")
        wanted.setdefault(stage, {})[part] = content
    found = {}
    for stage, parts in wanted.items():
        fitting = [member for member in _members(folder / stage) if _has(member, parts)]
        if fitting:
            found[stage] = max(fitting, key=lambda member: str(member.manifest["created"]))
    return found


def _members(folder: Path) -> Iterator[Artifact]:
    for path in sorted(folder.glob("*")):
        if len(path.name) == KEY_LENGTH:
            with contextlib.suppress(UserError):
                yield load_artifact(path)


def _has(artifact: Artifact, parts: Mapping[str, str]) -> bool:
    try:
        return all(artifact.content_of((part,) if part else ()) == content for part, content in parts.items())
    except CorruptError:
        return False
