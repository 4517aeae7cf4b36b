"""The verb `plan`: a dry run, which says what a stage would run, and why."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from split_matching.cache.entry import State
from split_matching.errors import format_count
from split_matching.pipeline.arguments import add_config_options, add_images_option, load_plan, parse_stage
from split_matching.pipeline.nearest import find_nearest
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.terminal import print_rows
from split_matching.pipeline.text import WAIT, describe_state
from split_matching.stages.ground.durations import format_duration

HELP = "what a stage would run, why, and how long it took before; a dry run"
DESCRIPTION = """
Prints what a stage would run, and runs nothing: for every stage on the way whether it would run, why, how many shards,
and how long it took before, with this config or the one that is most like it. A stage whose rebuilt input is the same
as before does not run after all.
"""
EXIT_CODES = "0 printed, 2 wrong usage or config, 3 data or weights missing"
EXAMPLES = ("plan Report --dataset shapes --set pseudo_masks.merge=0.8",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`."""
    add_config_options(parser)
    add_images_option(parser)
    parser.add_argument("stage", type=parse_stage, metavar="STAGE", help="the stage that would run")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with keys")
    parser.add_argument("--force", action="store_true", help="as if this stage were run with --force")


def run(options: argparse.Namespace) -> int:
    """Print the plan."""
    stage = load_plan(options).stage(options.stage)
    if options.force:
        stage = stage.plan.superseding(stage.name)[stage.name]
    if options.json:
        print(plan_json(stage))
        return 0
    planned = plan_stages(stage)
    print_rows([(member.stage.command, str(member)) for member in planned])
    print(_total(planned))
    return 0


OTHER_WORK = re.compile(r"config (\w+\.steps|shapes\.\w+_scenes|data\.images) ")
"""What makes the time that another config took say nothing."""


@dataclass(frozen=True)
class PlannedStage:
    """What a dry run says of one of the stages on the way to the wanted one.

    Args:
        stage: the stage.
        state: its present state, with the reasons why it would run.
        shards: number of shards to make; None if it is not known before PrepareDataset has run; 0 if not sharded.
        seconds: time that the artifact took, or else the artifact of the most similar config; None if there is none.
    """

    stage: Stage
    state: State
    shards: int | None
    seconds: float | None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f"took {format_duration(self.seconds)}"
        if self.state.fresh:
            return f"fresh  {took}"
        count = f", {format_count(self.shards, 'shard')}" if self.shards else ""
        return f"run    {describe_state(self.state)}{count}{f', {took} before' if took else ''}"


def plan_stages(stage: Stage) -> list[PlannedStage]:
    """Return what a run of a stage would do: an entry for every stage on the way, upstream first."""
    planned = []
    states = stage.plan.states([stage.name])
    known = "dataset" not in states or states["dataset"].fresh
    for name, state in states.items():
        member = stage.plan[name]
        earlier, why = (state.artifact, []) if state.artifact else find_nearest(member)
        if state.name == "missing":
            state = replace(state, reasons=(*why, *state.reasons))
        alike = earlier and not any(OTHER_WORK.match(line) for line in why)
        seconds = float(earlier.manifest["seconds"]) if earlier and alike else None
        planned.append(PlannedStage(member, state, _shards_to_make(member, state) if known else None, seconds))
    return planned


def _shards_to_make(stage: Stage, state: State) -> int:
    if state.fresh or not stage.splits:
        return 0
    if state.name == "partial":
        return state.total - state.done
    shards = stage.shard_digests()
    if state.name == "corrupt" and state.artifact is not None and state.artifact.manifest["plan"] == shards:
        return sum(not reason.startswith(WAIT) for reason in state.reasons)  # the other shards are kept
    return sum(len(digests) for digests in shards.values())


def _total(planned: Sequence[PlannedStage]) -> str:
    """Say how many stages would run, and how long they took before."""
    runs = [member for member in planned if not member.state.fresh]
    known = [member.seconds for member in runs if member.seconds is not None]
    total = f"{len(runs)} of {len(planned)} stages would run" if runs else "nothing would run"
    if known:
        which = "they" if len(known) == len(runs) else f"{len(known)} of them"
        total += f"; {which} took {format_duration(sum(known))} before"
    return total


def plan_json(stage: Stage) -> str:
    """Return what `plan` shows as JSON: one object a stage, upstream first."""
    stages = [
        {
            "stage": member.stage.command,
            "name": member.stage.name,
            "run": not member.state.fresh,
            "state": member.state.name,
            "reasons": list(member.state.reasons),
            "shards": member.shards,
            "seconds_before": member.seconds,
            "key": member.stage.key,
        }
        for member in plan_stages(stage)
    ]
    plan = stage.plan
    whole = {"dataset": plan.config.dataset, "artifacts": str(plan.root), "stage": stage.command, "stages": stages}
    return json.dumps(whole, indent=1)
