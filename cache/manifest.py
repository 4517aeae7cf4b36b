"""Parts of a manifest: digests of what a result holds, and when and where it was made."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from split_matching.cache.keys import canonical_json
from split_matching.cache.names import split_of
from split_matching.environment import command_line, commit

PACKAGES = (
    "numpy",
    "torch",
    "open_clip_torch",
    "h5py",
    "faiss-cpu",
    "faiss-gpu",
    "pillow",
    "opencv-python-headless",
    "scipy",
    "luigi",
)
"""Packages whose versions a manifest and a log name."""


def contents(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a content digest for every plain file, and one for all shards of a split together.

    A split's digest runs over its images in order, so it does not depend on how they are cut into shards.
    """
    contents = {name: str(entry["sha256"]) for name, entry in files.items() if not split_of(name)}
    splits: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
    for name in sorted(files):
        if split := split_of(name):
            splits.setdefault(split, []).append((folder / name, files[name]))
    for split, shards in splits.items():
        contents[split] = _split_content(shards)
    return dict(sorted(contents.items()))


def _split_content(shards: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    from split_matching.cache.shard_format import SCHEMA as SHARD_SCHEMA
    from split_matching.cache.shard_reader import ShardReader

    content = hashlib.sha256()
    for number, (path, entry) in enumerate(shards):
        reader = ShardReader(path, entry)
        if number == 0:
            content.update(canonical_json([SHARD_SCHEMA, reader.kind, reader.attrs]).encode())
        for image_id, image_digest in zip(reader.ids, reader.digests, strict=True):
            content.update(canonical_json(image_id).encode() + image_digest.tobytes())
        reader.close()
    return content.hexdigest()


def circumstances() -> dict[str, Any]:
    """Return when, where and by which command a result is made: all that may differ between two equal runs."""
    return {"created": datetime.now(UTC).isoformat(timespec="milliseconds"), **_environment()}


@lru_cache(maxsize=1)
def _environment() -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    versions = {"python": platform.python_version(), **packages}
    return {"host": platform.node(), "commit": commit(), "command": command_line(), "versions": versions}
