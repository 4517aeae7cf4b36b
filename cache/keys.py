"""Digests of values and files. They are the same on every machine and in every process.

A key says which result is meant (config, version, keys of what it builds on).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, tuples as lists, no NaN.

    Raises:
        TypeError: the value is no JSON value.
        ValueError: NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """Return the sha256 of a file, which is read once in a process unless it changes."""
    found = path.stat()
    return _known_sha256(path, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=1024)
def _known_sha256(path: Path, mtime_ns: int, size: int, inode: int) -> str:
    return file_sha256(path)


def changed_names(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the names whose values differ between two mappings, or that only one of them has; sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
