"""A manifest that comes from elsewhere is checked in full before anything in it is believed: names above all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from split_matching.cache.artifact import MANIFEST, SCHEMA, split_of
from split_matching.cache.entry import BUILD, DONE
from split_matching.cache.files import parse_json, self_digest
from split_matching.cache.locks import LOCK

LONGEST_NAME = 255  # bytes of a file's name, as on most file systems

_HEX = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[^/\\\x00-\x1f\x7f]+")


def parse_manifest(text: bytes) -> dict[str, Any]:
    """Return a manifest that may have been written by anybody.

    Raises:
        ValueError: it is none of this schema, or not as it was written, or has a name that leads out of its folder.
    """
    manifest = parse_json(text)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError(f"it is no manifest of schema {SCHEMA}")
    _check_text(manifest)
    for name, holds in _FIELDS.items():
        if name not in manifest or not holds(manifest[name]):
            raise ValueError(f"{name} is missing or wrong")
    for name, holds in _ADDED.items():
        if name in manifest and not holds(manifest[name]):
            raise ValueError(f"{name} is wrong")
    _check_names(list(manifest["files"]))
    _check_content(manifest)
    if manifest["digest"] != self_digest(manifest):
        raise ValueError("it is not as it was written")
    return manifest


def _check_text(value: Any) -> None:
    """Reject what would reach a terminal as more than text."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("it has control characters")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_text(key)
            _check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner)


def _check_names(names: list[str]) -> None:
    """Reject names that lead out of their folder, are those of the cache itself, or cannot be files side by side."""
    folders = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 1)}
    for name in names:
        parts = name.split("/")
        plain = all(_PART.fullmatch(part) and len(part.encode()) <= LONGEST_NAME for part in parts)
        if not plain or any(part.startswith(".") for part in parts):
            raise ValueError(f"the name {name!r} is not allowed")
        if name in (BUILD, LOCK, MANIFEST) or name.endswith((DONE, ".h5.lock")) or name in folders:
            raise ValueError(f"the name {name!r} is taken")


def _check_content(manifest: Mapping[str, Any]) -> None:
    """See that a manifest says of every file and split what it holds, and of nothing else."""
    if {split_of(name) or name for name in manifest["files"]} != set(manifest["content"]):
        raise ValueError("content does not fit its files")


# --- types of the fields ----------------------------------------------------------------------------------------------

_Test = Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15


def _mapping(holds: _Test) -> _Test:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _list(holds: _Test) -> _Test:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _is_file(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_count(value.get("bytes")) or not _is_digest(value.get("sha256")):
        return False
    if "layout" not in value:
        return True
    place = 0
    if not _is_digest(value["layout"]) or not _list(_list(_is_count))(value.get("data")):
        return False
    for span in value["data"]:
        if len(span) != 2 or not place <= span[0] <= span[1] <= value["bytes"]:
            return False
        place = span[1]
    return True


_FIELDS: dict[str, _Test] = {
    "dataset": _is_text,
    "stage": _is_text,
    "version": _is_count,
    "key": _is_digest,
    "config": _mapping(lambda value: True),
    "code": _mapping(_is_text),
    "inputs": _mapping(_is_text),
    "plan": _mapping(_list(_is_digest)),
    "force": _is_text,
    "files": lambda value: bool(value) and _mapping(_is_file)(value),
    "content": _mapping(_is_digest),
    "seconds": _is_number,
    "images": _is_count,
    "summary": _mapping(lambda value: True),
    "created": _is_text,
    "host": _is_text,
    "versions": _mapping(_is_text),
    "digest": _is_digest,
}
_ADDED: dict[str, _Test] = {
    "upstream": _mapping(_is_text),
    "commit": _is_text,
    "command": _is_text,
    "adopted": _list(lambda value: isinstance(value, dict)),
    "equal_inputs": _mapping(_list(_is_text)),
}
