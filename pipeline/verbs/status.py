"""What the verbs `status` and `plan` print. Reads the cache and changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from split_matching.cache.store import State
from split_matching.pipeline.plan import Plan, Stage
from split_matching.pipeline.text import WAIT, describe_state, format_count, format_duration, format_size


def status_lines(plan: Plan) -> list[str]:
    """Return all stages as a tree: how each stands and why, its size on disk and its folder.

    A stage stands below the last of the stages that it reads, so that what is above it has run before it.
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
        known = size_on_disk(plan, slug, state) if state.name != "missing" else 0
        stages.append(
            {
                "stage": stage.name,
                "slug": slug,
                "state": state.name,
                "reasons": list(state.reasons),
                "shards_done": state.done,
                "shards": state.total,
                "bytes": known,
                "path": str(_place(plan, slug, state)) if known else None,
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
    """Return the folder of a stage's artifact, or of its build in progress where there is no artifact."""
    folder = plan.folder(slug)
    return plan.store.partial(folder) if state.name == "partial" else folder


def size_on_disk(plan: Plan, slug: str, state: State) -> int:
    """Return the bytes of a stage: of its artifact as the manifest has them, and of a build in progress."""
    size = 0
    if state.artifact is not None:
        size += sum(int(entry["bytes"]) for entry in state.artifact.manifest["files"].values())
    if state.name == "partial" or state.total:
        size += plan.store.size(plan.store.partial(plan.folder(slug)))
    return size


@dataclass(frozen=True)
class Step:
    """What running a stage would do about one of the stages on the way.

    Args:
        name: of the stage.
        slug: of the stage.
        key: of the result that is meant.
        state: how it stands now; its reasons say why it would run.
        shards: how many would be made; None if that is not known before PrepareDataset ran. 0 for an unsharded stage.
        seconds: how long the artifact took, or where there is none that of the nearest other config; None if none is
            there.
    """

    name: str
    slug: str
    key: str
    state: State
    shards: int | None
    seconds: float | None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f"took {format_duration(self.seconds)}"
        if self.state.fresh:
            return f"fresh  {took}"
        count = f", {format_count(self.shards, 'shard')}" if self.shards else ""
        return f"run    {describe_state(self.state)}{count}{f', {took} before' if took else ''}"


def plan_steps(plan: Plan, stage: Stage) -> list[Step]:
    """Return what running a stage would do: one step for every stage on the way, upstream first."""
    steps = []
    states = plan.states([stage.slug])
    for slug, state in states.items():
        earlier, why = (state.artifact, []) if state.artifact else plan.nearest(slug)
        if state.name == "missing":
            state = replace(state, reasons=(*why, *state.reasons))
        seconds = float(earlier.manifest["seconds"]) if earlier else None
        shards = _shards_to_make(plan, slug, state) if "dataset" not in states or states["dataset"].fresh else None
        steps.append(Step(plan.stages[slug].name, slug, plan.key(slug), state, shards, seconds))
    return steps


def _shards_to_make(plan: Plan, slug: str, state: State) -> int:
    if state.fresh or not plan.stages[slug].sharded:
        return 0
    if state.name == "partial":
        return state.total - state.done
    shards = plan.shard_plan(slug)
    if state.name == "corrupt" and state.artifact is not None and state.artifact.manifest["plan"] == shards:
        return sum(not reason.startswith(WAIT) for reason in state.reasons)  # the others are taken over
    return sum(len(digests) for digests in shards.values())


def plan_lines(plan: Plan, stage: Stage) -> list[str]:
    """Return what running a stage would do, and why: one line for every stage on the way, and a sum."""
    steps = plan_steps(plan, stage)
    width = max(len(step.name) for step in steps)
    runs = [step for step in steps if not step.state.fresh]
    known = [step.seconds for step in runs if step.seconds is not None]
    took = (
        f"; {'they' if len(known) == len(runs) else f'{len(known)} of them'} took {format_duration(sum(known))} before"
    )
    total = f"{len(runs)} of {len(steps)} stages would run{took if known else ''}" if runs else "nothing would run"
    return [*(f"{step.name:<{width}}  {step}" for step in steps), total]


def plan_json(plan: Plan, stage: Stage) -> str:
    """Return what `plan` shows as JSON: one object a stage, upstream first."""
    stages = [
        {
            "stage": step.name,
            "slug": step.slug,
            "run": not step.state.fresh,
            "state": step.state.name,
            "reasons": list(step.state.reasons),
            "shards": step.shards,
            "seconds_before": step.seconds,
            "key": step.key,
        }
        for step in plan_steps(plan, stage)
    ]
    whole = {"dataset": plan.config.dataset, "artifacts": str(plan.store.root), "stage": stage.name, "stages": stages}
    return json.dumps(whole, indent=1)
