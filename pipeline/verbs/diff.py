"""The verb `diff`: the differences between two artifacts and all that they were made from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.folders import find_artifact, is_key
from split_matching.cache.keys import changed_names
from split_matching.cache.lineage import trace
from split_matching.errors import one_line
from split_matching.pipeline.arguments import add_cache_options, cache_of
from split_matching.pipeline.known_runs import find_run, settings_of
from split_matching.pipeline.text import describe_change

HELP = "the differences between two runs or artifacts: settings, code, environment, results"
DESCRIPTION = """
Prints the differences between two artifacts and all that they were made from: settings, results, which stages differ,
code and environment. The first digits of a key are enough; train/49ae looks among those of one stage,
voc/train/49ae among those of one data set; a run may be given by its name.
"""
EXIT_CODES = "0 printed, 2 no key, or the first digits of several keys, 3 no such artifact"
EXAMPLES = ("diff 2be83e14 97991bcb", "diff baseline wide")

Artifacts = Mapping[str, Artifact]
"""An artifact and all that it was made from, by stage, upstream first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    parser.add_argument("keys", nargs=2, metavar="KEY", help="hex digits, as in the names of folders; or a run's name")
    add_cache_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the differences."""
    print(*map(one_line, compare(cache_of(options), *options.keys)), sep="\n")
    return 0


def compare(root: Path, first: str, second: str) -> list[str]:
    """Return the differences between two artifacts, and what they were made from, as lines.

    Args:
        root: folder of the cache.
        first: first digits of a key, or the name of a run.
        second: likewise.

    Raises:
        UserError: it names no artifact, or several.
    """
    before, after = _find(root, first), _find(root, second)
    lines = [f"- {_title(before)}", f"+ {_title(after)}"]
    if before.path == after.path:
        return [*lines, "", "the same artifact"]
    one, two = trace(before), trace(after)
    # two stages have few settings in common: those of what both were made from can be compared
    shared = one.keys() & two.keys() if before.manifest["stage"] != after.manifest["stage"] else one.keys() | two.keys()
    parts = {
        "settings": _changed_values(
            *(settings_of({name: side[name] for name in side if name in shared}) for side in (one, two))
        ),
        "results": list(_changed_results(one, two)),
        "stages": list(_changed_stages(one, two)),
        "code": _changed_code(one, two),
        "environment": _changed_environment(one, two),
    }
    for name, found in parts.items():
        lines += ["", f"{name}: {'' if found else 'the same'}".rstrip(), *(f"  {line}" for line in found)]
    same = before.content == after.content
    return [*lines, "", f"contents: {'the same' if same else 'different'}"]


def _find(root: Path, words: str) -> Artifact:
    return find_artifact(root, words) if is_key(words) else find_run(root, words).artifact


def _title(artifact: Artifact) -> str:
    manifest = artifact.manifest
    return f"{manifest['stage']} {artifact.key[:KEY_LENGTH]} ({manifest['dataset']}), made {manifest['created'][:19]}"


def _changed_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {describe_change(before.get(name, 'none'), after.get(name, 'none'))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _changed_results(one: Artifacts, two: Artifacts) -> Iterator[str]:
    """Yield what stages of both found out that differs, those at the end first."""
    for name in [name for name in reversed(list(two)) if name in one]:
        before, after = one[name].summary, two[name].summary
        for key in [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]:
            yield f"{two[name].manifest['stage']} {key}: {_format_change(before.get(key), after.get(key))}"


def _format_change(before: Any, after: Any) -> str:
    """Return how a result changed, numbers with four digits and their difference."""
    if isinstance(before, int | float) and isinstance(after, int | float):
        return f"{before:.4g} -> {after:.4g} ({after - before:+.3g})"
    return describe_change("none" if before is None else before, "none" if after is None else after)


def _changed_stages(one: Artifacts, two: Artifacts) -> Iterator[str]:
    """Yield which stages have another key or content, upstream first."""
    for name in [*one, *(name for name in two if name not in one)]:
        if name not in one or name not in two:
            side, artifact = ("-", one[name]) if name in one else ("+", two[name])
            yield f"{artifact.manifest['stage']} (only in {side})"
        elif one[name].path != two[name].path:
            keys = " -> ".join(artifacts[name].key[:KEY_LENGTH] for artifacts in (one, two))
            same = " (the same contents)" if one[name].content == two[name].content else ""
            yield f"{one[name].manifest['stage']} {keys}{same}"


def _changed_code(one: Artifacts, two: Artifacts) -> list[str]:
    """Return the files that differ in stages of both; one that only one of them runs is marked."""
    changed: set[str] = set()
    for name in one.keys() & two.keys():
        before, after = one[name].manifest["code"], two[name].manifest["code"]
        sides = {file: "+" if file in after else "-" for file in before.keys() ^ after.keys()}
        changed |= {f"{f} (only in {sides[f]})" if f in sides else f for f in changed_names(before, after)}
    return sorted(changed)


def _changed_environment(one: Artifacts, two: Artifacts) -> list[str]:
    """Return what differs in the circumstances of stages of both, and in which of them."""
    changed: dict[str, list[str]] = {}
    for name in [name for name in two if name in one and one[name].path != two[name].path]:
        for line in _changed_values(*(_environment(artifacts[name].manifest) for artifacts in (one, two))):
            changed.setdefault(line, []).append(two[name].manifest["stage"])
    return [f"{line} ({', '.join(stages)})" for line, stages in sorted(changed.items())]


def _environment(manifest: Mapping[str, Any]) -> dict[str, Any]:
    commit = str(manifest.get("commit") or "unknown")
    return {"host": manifest.get("host"), "commit": commit[:12], **manifest.get("versions", {})}
