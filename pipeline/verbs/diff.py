"""The verb `diff`: the differences between two artifacts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.folders import find_artifact
from split_matching.cache.keys import changed_names
from split_matching.pipeline.arguments import add_config_options, load_plan
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.text import describe_change, flatten

HELP = "the differences between two artifacts: config, code, environment"
DESCRIPTION = """
Prints the differences between two artifacts: config, code, inputs, environment, and results. The first digits of a key
are enough; STAGE-FOLDER/KEY, e.g. train/49ae, looks among those of one stage.
"""
EXIT_CODES = "0 printed, 2 no key, or the first digits of several keys, 3 no such artifact"
EXAMPLES = ("diff 2be83e14 97991bcb",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    add_config_options(parser)
    parser.add_argument("keys", nargs=2, metavar="KEY", help="hex digits, as in the names of folders")


def run(options: argparse.Namespace) -> int:
    """Print the differences."""
    print(*compare(load_plan(options), *options.keys), sep="\n")
    return 0


def compare(plan: Plan, first: str, second: str) -> list[str]:
    """Return the differences between two artifacts as lines.

    Args:
        plan: names the cache.
        first: first digits of a key.
        second: first digits of another key.

    Raises:
        UserError: a key names no artifact, or several.
    """
    before, after = find_artifact(plan.root, first), find_artifact(plan.root, second)
    lines = [f"- {_title(before)}", f"+ {_title(after)}"]
    if before.path == after.path:
        return [*lines, "", "the same artifact"]
    one, two = before.manifest, after.manifest
    parts = {
        "config": _changed_values(flatten(one["config"]), flatten(two["config"])),
        "code": _changed_names(one["code"], two["code"]),
        "inputs": _changed_names(one["inputs"], two["inputs"]),
        "environment": _changed_values(_environment(one), _environment(two)),
        "results": _changed_values(one["summary"], two["summary"]),
    }
    for name, found in parts.items():
        lines += ["", f"{name}: {'' if found else 'the same'}".rstrip(), *(f"  {line}" for line in found)]
    same = before.content == after.content
    return [*lines, "", f"contents: {'the same' if same else 'different'}"]


def _title(artifact: Artifact) -> str:
    manifest = artifact.manifest
    return f"{manifest['stage']} {artifact.key[:KEY_LENGTH]} ({manifest['dataset']}), made {manifest['created'][:19]}"


def _environment(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"host": manifest.get("host"), **manifest.get("versions", {})}


def _changed_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [f"{name}: {describe_change(before.get(name, 'none'), after.get(name, 'none'))}" for name in names]


def _changed_names(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    sides = {name: "+" if name in after else "-" for name in before.keys() ^ after.keys()}
    return [f"{name} (only in {sides[name]})" if name in sides else name for name in changed_names(before, after)]
