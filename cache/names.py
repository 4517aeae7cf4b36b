"""Names of the files in a folder of the cache."""

from __future__ import annotations

import re
from collections.abc import Iterable

MANIFEST = "manifest.json"
BUILD = "build.json"
DONE = ".done.json"
LOCK = "build.lock"
"""Lock file of a whole build."""

SHARD_LOCK = ".h5.lock"

LONGEST_NAME = 255  # bytes of a file's name, as on most file systems

_SHARD_FILE = re.compile(r"([A-Za-z0-9_]+)-(\d{5})\.h5")
_PART = re.compile(r"[^/\\\x00-\x1f\x7f]+")


def shard_name(split: str, index: int) -> str:
    """Return the file name of a shard, e.g. "train-00003.h5"."""
    return f"{split}-{index:05d}.h5"


def split_of(name: str) -> str | None:
    """Return the split of a shard's file name; None if it is no shard."""
    found = _SHARD_FILE.fullmatch(name)
    return found[1] if found else None


def belongs_to_build(name: str) -> bool:
    """Whether a file belongs to the build, not to its result."""
    return name in (BUILD, LOCK, MANIFEST) or name.endswith((DONE, SHARD_LOCK))


def is_temporary(name: str) -> bool:
    """Whether a file is one that `cache.files.atomic_write` writes to, of a writer that may have been killed."""
    return name.startswith(".") and name.endswith(".tmp")


def check_names(names: Iterable[str]) -> None:
    """Reject names of output files that lead out of their folder, are the cache's own, or cannot be side by side.

    Raises:
        ValueError: says which name.
    """
    names = list(names)
    folders = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 1)}
    for name in names:
        parts = name.split("/")
        plain = all(_PART.fullmatch(part) and len(part.encode()) <= LONGEST_NAME for part in parts)
        if not plain or {".", ".."} & set(parts):
            raise ValueError(f"the name {name!r} is not allowed")
        if belongs_to_build(name) or is_temporary(parts[-1]) or name in folders:
            raise ValueError(f"the name {name!r} is taken")
