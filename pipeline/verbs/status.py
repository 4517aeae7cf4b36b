"""The verb `status`: prints the state of every stage, as a tree or as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from split_matching.cache.store import State
from split_matching.pipeline.arguments import add_config_options, add_images_option, load_plan
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.text import describe_state, format_size

HELP = "the state of every stage: fresh, stale (why), partial, missing or corrupt"
DESCRIPTION = """
Prints a tree of all stages, and the state of each:

  fresh     nothing needs to run
  stale     made by other code or from other inputs; the reason says which
  partial   interrupted, with the number of finished shards; the next run continues from there
  missing   not made for this config
  corrupt   a file is missing or damaged; the next run makes that file again

Reads only manifests, and changes nothing.
"""
EXIT_CODES = "0 printed, whatever the state, 2 wrong usage or config"
EXAMPLES = ("status --dataset shapes --set pseudo_masks.merge=0.8",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `status`."""
    add_config_options(parser)
    add_images_option(parser)
    parser.add_argument("--json", action="store_true", help="the same as JSON, with keys, times and sizes")


def run(options: argparse.Namespace) -> int:
    """Print the states."""
    plan = load_plan(options)
    print(status_json(plan) if options.json else "\n".join(status_lines(plan)))
    return 0


def status_lines(plan: Plan) -> list[str]:
    """Return all stages as a tree, each with its state, the reason, its size on disk and its folder.

    A stage is drawn below the last of the stages that it reads, so that all stages above it run before it.
    """
    states = plan.states()
    drawn = _tree(plan)
    width = max(len(branch) + len(plan.stages[slug].name) for slug, branch in drawn.items())
    lines = []
    for slug, branch in drawn.items():
        size = size_on_disk(plan, slug, states[slug])
        place = f", {format_size(size)}, {_place(plan, slug, states[slug])}" if size else ""
        lines.append(f"{branch + plan.stages[slug].name:<{width}}  {describe_state(states[slug])}{place}")
    return lines


def status_json(plan: Plan) -> str:
    """Return what `status` shows as JSON: one object a stage, upstream first."""
    stages = []
    for slug, state in plan.states().items():
        stage = plan.stages[slug]
        manifest = state.artifact.manifest if state.artifact else {}
        size = size_on_disk(plan, slug, state) if state.name != "missing" else 0
        stages.append(
            {
                "stage": stage.name,
                "slug": slug,
                "state": state.name,
                "reasons": list(state.reasons),
                "shards_done": state.done,
                "shards": state.total,
                "bytes": size,
                "path": str(_place(plan, slug, state)) if size else None,
                "key": manifest.get("key"),
                "seconds": manifest.get("seconds"),
                "created": manifest.get("created"),
                "upstream": [plan.stages[up].name for up in stage.upstream],
            }
        )
    whole = {"dataset": plan.config.dataset, "artifacts": str(plan.store.root), "stages": stages}
    return json.dumps(whole, indent=1)


def _tree(plan: Plan) -> dict[str, str]:
    """Return the lines drawn before the name of each stage, in the order of the tree."""
    order = list(plan.stages)
    below: dict[str, list[str]] = {}
    for slug, stage in plan.stages.items():
        below.setdefault(max(stage.upstream, key=order.index, default=""), []).append(slug)
    drawn: dict[str, str] = {}

    def draw(slug: str, branch: str, indent: str) -> None:
        drawn[slug] = branch
        members = below.get(slug, [])
        for member in members:
            last = member == members[-1]
            draw(member, f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}")

    for root in below[""]:
        draw(root, "", "")
    return drawn


def _place(plan: Plan, slug: str, state: State) -> Path:
    """Return the folder of a stage's artifact, or of its unfinished build if there is no artifact."""
    folder = plan.folder(slug)
    return plan.store.partial(folder) if state.name == "partial" else folder


def size_on_disk(plan: Plan, slug: str, state: State) -> int:
    """Return the bytes of a stage: of its artifact, as in the manifest, and of an unfinished build."""
    size = 0
    if state.artifact is not None:
        size += sum(int(entry["bytes"]) for entry in state.artifact.manifest["files"].values())
    if state.name == "partial" or state.total:
        size += plan.store.size(plan.store.partial(plan.folder(slug)))
    return size
