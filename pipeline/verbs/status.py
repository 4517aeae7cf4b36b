"""The verb `status`: prints the state of every stage, as a tree or as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from split_matching.cache.entry import State
from split_matching.cache.files import folder_size
from split_matching.pipeline.arguments import add_config_options, add_images_option, load_plan
from split_matching.pipeline.plan import Plan, Stage
from split_matching.pipeline.terminal import is_terminal, print_line, print_rows
from split_matching.pipeline.text import describe_state, format_size

HELP = "the state of every stage: fresh, stale (why), partial, missing or corrupt"
DESCRIPTION = """
Prints a tree of all stages, and the state of each:

  fresh     nothing needs to run
  stale     made by other code or from other inputs; the reason says which
  partial   interrupted, with the number of finished shards; the next run continues from there
  missing   not made for this config
  corrupt   a file is missing or damaged; the next run makes that file again
  unreadable  of another user, or on a disk that does not answer

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
    if options.json:
        print(status_json(plan))
        return 0
    folder = plan.root / plan.config.dataset
    print_rows(status_rows(plan, folder if is_terminal() else None))
    if is_terminal():
        print_line(f"folders are below {folder}", "dim")
    return 0


def status_rows(plan: Plan, below: Path | None = None) -> list[tuple[str, str]]:
    """Return all stages as a tree, and beside each its state, the reason, its size on disk and its folder.

    A stage is drawn below the last of the stages that it reads, so that all stages above it run before it.

    Args:
        plan: the plan of the config.
        below: folder that the names of folders are relative to; None for whole paths.
    """
    states = plan.states()
    rows = []
    for name, branch in _tree(plan).items():
        size, place = size_on_disk(plan[name], states[name]), _place(plan[name], states[name])
        where = place.relative_to(below) if below else place
        more = f", {format_size(size)}, {where}" if size else ""
        rows.append((branch + plan[name].command, f"{describe_state(states[name])}{more}"))
    return rows


def status_json(plan: Plan) -> str:
    """Return what `status` shows as JSON: one object a stage, upstream first."""
    stages = []
    for name, state in plan.states().items():
        stage = plan[name]
        manifest = state.artifact.manifest if state.artifact else {}
        size = size_on_disk(stage, state) if state.name != "missing" else 0
        stages.append(
            {
                "stage": stage.command,
                "name": name,
                "state": state.name,
                "reasons": list(state.reasons),
                "shards_done": state.done,
                "shards": state.total,
                "bytes": size,
                "path": str(_place(stage, state)) if size else None,
                "key": manifest.get("key"),
                "seconds": manifest.get("seconds"),
                "created": manifest.get("created"),
                "upstream": [plan[up].command for up in stage.upstream],
            }
        )
    whole = {"dataset": plan.config.dataset, "artifacts": str(plan.root), "stages": stages}
    return json.dumps(whole, indent=1)


def _tree(plan: Plan) -> dict[str, str]:
    """Return the lines drawn before the name of each stage, in the order of the tree."""
    order = list(plan.stages)
    below: dict[str, list[str]] = {}
    for name, stage in plan.stages.items():
        below.setdefault(max(stage.upstream, key=order.index, default=""), []).append(name)
    drawn: dict[str, str] = {}

    def draw(name: str, branch: str, indent: str) -> None:
        drawn[name] = branch
        members = below.get(name, [])
        for member in members:
            last = member == members[-1]
            draw(member, f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}")

    for root in below[""]:
        draw(root, "", "")
    return drawn


def _place(stage: Stage, state: State) -> Path:
    """Return the folder of a stage's artifact, or of its unfinished build if there is no artifact."""
    return stage.entry.partial if state.name == "partial" else stage.entry.folder


def size_on_disk(stage: Stage, state: State) -> int:
    """Return the bytes of a stage: of its artifact, as in the manifest, and of an unfinished build."""
    size = 0
    if state.artifact is not None:
        size += sum(int(entry["bytes"]) for entry in state.artifact.manifest["files"].values())
    if state.name == "partial" or state.total:
        size += folder_size(stage.entry.partial)
    return size
