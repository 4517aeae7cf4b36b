"""The fields of the project's own JSON files. A right digest says only that a file is as somebody wrote it.

So whoever reads such a file names here what must be in it, and gets nothing from a file that is otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from split_matching.cache.names import check_names, split_of

Test = Callable[[Any], bool]
Fields = Mapping[str, Test]

_HEX = re.compile(r"[0-9a-f]{64}")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60


def is_number(value: Any) -> bool:
    """Whether a value is a finite number from 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15


def is_text(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def is_digest(value: Any) -> bool:
    """Whether a value is a sha256 in hex."""
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def mapping_of(holds: Test) -> Test:
    """Return the test of an object whose values all pass a test."""
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def list_of(holds: Test) -> Test:
    """Return the test of a list whose members all pass a test."""
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _is_anything(value: Any) -> bool:
    return True


def _is_file(value: Any) -> bool:
    """Whether a value says of a file what it holds, see `cache.shard_layout.describe_shard`."""
    if not isinstance(value, dict) or not is_count(value.get("bytes")) or not is_digest(value.get("sha256")):
        return False
    if "layout" not in value:
        return True
    place = 0
    if not is_digest(value["layout"]) or not list_of(list_of(is_count))(value.get("data")):
        return False
    for span in value["data"]:
        if len(span) != 2 or not place <= span[0] <= span[1] <= value["bytes"]:
            return False
        place = span[1]
    return True


PLAN = mapping_of(list_of(is_digest))

MANIFEST_FIELDS: Fields = {
    "dataset": is_text,
    "stage": is_text,
    "version": is_count,
    "key": is_digest,
    "config": mapping_of(_is_anything),
    "code": mapping_of(is_text),
    "inputs": mapping_of(is_text),
    "plan": PLAN,
    "force": is_text,
    "files": lambda value: bool(value) and mapping_of(_is_file)(value),
    "content": mapping_of(is_digest),
    "seconds": is_number,
    "images": is_count,
    "summary": mapping_of(_is_anything),
    "created": is_text,
    "host": is_text,
    "versions": mapping_of(is_text),
    "digest": is_digest,
}
ADDED_FIELDS: Fields = {
    "upstream": mapping_of(is_text),
    "commit": is_text,
    "command": is_text,
    "adopted": list_of(lambda value: isinstance(value, dict)),
    "equal_inputs": mapping_of(list_of(is_text)),
}
"""Fields of a manifest that early ones do not have."""

ORDER_FIELDS: Fields = {
    "schema": is_count,
    "key": is_digest,
    "code": mapping_of(is_text),
    "inputs": mapping_of(is_text),
    "plan": PLAN,
    "force": is_text,
}
"""Of build.json."""

PROGRESS_FIELDS: Fields = {"step": is_count, "steps": is_count, "seconds": is_number}
"""Of checkpoint.json."""


def find_wrong(value: Mapping[str, Any], fields: Fields, added: Fields | None = None) -> str:
    """Return which field of a JSON object is missing or wrong, in a few words; "" if none is.

    Args:
        value: the object.
        fields: what must be in it.
        added: what may be in it.
    """
    for name, holds in fields.items():
        if name not in value or not holds(value[name]):
            return f"{name} is missing or wrong"
    for name, holds in (added or {}).items():
        if name in value and not holds(value[name]):
            return f"{name} is wrong"
    return ""


def has_fields(fields: Fields) -> Test:
    """Return the test of an object that has some fields."""
    return lambda value: isinstance(value, dict) and not find_wrong(value, fields)


def is_done(value: Any) -> bool:
    """Whether a value is the sidecar of a finished shard: what a manifest says of a file, and how long it took."""
    return _is_file(value) and is_number(value.get("seconds", 0))


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Reject a manifest with a field that no artifact has, or a file that leads out of its folder.

    Raises:
        ValueError: says what is wrong.
    """
    if wrong := find_wrong(manifest, MANIFEST_FIELDS, ADDED_FIELDS):
        raise ValueError(wrong)
    check_names(manifest["files"])
    if {split_of(name) or name for name in manifest["files"]} != set(manifest["content"]):
        raise ValueError("content does not fit its files")
