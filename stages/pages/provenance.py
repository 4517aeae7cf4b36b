"""Where a report comes from: the artifacts it was made of, what they found out, and the versions that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from split_matching.cache.artifact import Artifact
from split_matching.stages.pages.formats import format_time


def list_stages(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return key, time, config and summary of every upstream artifact, in order of creation where that is known."""
    ordered = sorted(
        inputs.values(), key=lambda artifact: (format_time(artifact.manifest.get("created")), artifact.stage)
    )
    seconds = [float(artifact.manifest.get("seconds") or 0.0) for artifact in ordered]
    longest = max(seconds, default=0.0) or 1.0
    return [
        {
            "name": artifact.manifest.get("stage", artifact.stage),
            "key": str(artifact.manifest.get("key", artifact.key)),
            "seconds": spent,
            "share": 100 * spent / longest,
            "created": format_time(artifact.manifest.get("created")),
            "summary": _words(artifact.manifest.get("summary") or {}),
            "config": json.dumps(artifact.manifest.get("config") or {}, indent=1, sort_keys=True, ensure_ascii=False),
        }
        for artifact, spent in zip(ordered, seconds, strict=True)
    ]


def list_summaries(inputs: Mapping[str, Artifact], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what some stages found out, where their manifests say more than how much was done.

    Args:
        inputs: the artifacts.
        names: of the artifacts to look at; absent ones are left out.
    """
    found = []
    for name in names:
        summary = inputs[name].manifest.get("summary") or {} if name in inputs else {}
        if set(summary) - {"images", "shards"}:
            found.append({"name": name.replace("_", " "), "values": _words(summary)})
    return found


def list_versions(inputs: Mapping[str, Artifact]) -> list[tuple[str, str]]:
    """Return every package version that the manifests name; several values where stages ran under different ones."""
    found: dict[str, set[str]] = {}
    for artifact in inputs.values():
        for name, version in (artifact.manifest.get("versions") or {}).items():
            found.setdefault(str(name), set()).add(str(version))
    return [(name, ", ".join(sorted(versions))) for name, versions in sorted(found.items())]


def _words(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(str(key).replace("_", " "), value) for key, value in values.items() if not isinstance(value, list)]
