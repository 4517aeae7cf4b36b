"""A manifest that comes from elsewhere is checked in full before anything in it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from split_matching.cache.artifact import SCHEMA
from split_matching.cache.fields import check_manifest
from split_matching.cache.files import parse_json, self_digest


def parse_manifest(text: bytes) -> dict[str, Any]:
    """Return a manifest that may have been written by anybody.

    Raises:
        ValueError: it is none of this schema, or not as it was written, or has a name that leads out of its folder.
    """
    manifest = parse_json(text)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError(f"it is no manifest of schema {SCHEMA}")
    _check_text(manifest)
    check_manifest(manifest)
    if hidden := [name for name in manifest["files"] if any(part.startswith(".") for part in name.split("/"))]:
        raise ValueError(f"the name {hidden[0]!r} is not allowed")
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
