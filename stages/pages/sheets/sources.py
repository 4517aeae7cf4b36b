"""Where a sheet or a gallery comes from: which artifacts it shows, their states, settings and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import KEY_LENGTH
from split_matching.stages.pages.formats import format_time

States = Mapping[str, str]
"""The state of each artifact by its name, e.g. "fresh" or "stale (code model/clip.py)"."""


def describe_sources(inputs: Mapping[str, Artifact], names: Sequence[str], states: States) -> list[str]:
    """Return a line for each artifact that is shown, and of the first its settings and the libraries that made it.

    Args:
        inputs: the artifacts.
        names: of those that are shown, the main one first; absent ones are left out.
        states: their states.
    """
    shown = [inputs[name] for name in names if name in inputs]
    lines = [
        f"{artifact.manifest['stage']} {artifact.key[:KEY_LENGTH]}, {states.get(artifact.stage, 'fresh')}, "
        f"made {format_time(artifact.manifest.get('created'))}"
        for artifact in shown
    ]
    first = shown[0].manifest
    settings = {name: values for name, values in first["config"].items() if name in (names[0], "features")}
    versions = ", ".join(f"{name} {version}" for name, version in (first.get("versions") or {}).items())
    return [*lines, *(f"{name}: {_join_settings(values)}" for name, values in settings.items()), versions]


def _join_settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())
