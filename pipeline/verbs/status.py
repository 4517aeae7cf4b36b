"""What the verbs `status`, `plan` and `verify` print. Reads the cache; only `verify` changes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from split_matching.cache.folders import folders
from split_matching.cache.store import Artifact, State
from split_matching.pipeline.plan import WAIT, Plan, Stage, listed
from split_matching.pipeline.run.progress import duration


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
        place = f", {readable(size)}, {_place(plan, slug, states[slug])}" if size else ""
        lines.append(f"{branch + plan.stages[slug].name:<{width}}  {described(states[slug])}{place}")
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


def described(state: State) -> str:
    """Return a state in words, everything that it waits for together; of very many reasons the first."""
    waits = [reason.removeprefix(WAIT) for reason in state.reasons if reason.startswith(WAIT)]
    own = [reason for reason in state.reasons if not reason.startswith(WAIT)]
    reasons = [*([listed(own)] if own else []), *([WAIT + ", ".join(waits)] if waits else [])]
    return str(replace(state, reasons=tuple(reasons)))


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
        took = "" if self.seconds is None else f"took {duration(self.seconds)}"
        if self.state.fresh:
            return f"fresh  {took}"
        count = f", {counted(self.shards, 'shard')}" if self.shards else ""
        return f"run    {described(self.state)}{count}{f', {took} before' if took else ''}"


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
    took = f"; {'they' if len(known) == len(runs) else f'{len(known)} of them'} took {duration(sum(known))} before"
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


def verify(plan: Plan, everything: bool = False) -> tuple[list[str], bool]:
    """Read every file that the config reaches, and set damaged ones aside so that their stages make them again.

    Args:
        plan: the plan of the config.
        everything: read all other artifacts of the cache as well, of whatever config and data set.

    Returns:
        The lines to print, and whether all is well.
    """
    lines = []
    well = True
    for slug, state in plan.states().items():
        damage = set_damage_aside(plan, slug, state)
        well = well and not damage
        lines += [f"{line}: run {plan.stages[slug].name} again" for line in damage]
        if state.artifact is not None and not damage:
            lines.append(f"{plan.stages[slug].name}: {_whole(state.artifact)}")
    if everything:
        reached = {plan.folder(slug) for slug, state in plan.states().items() if state.name != "missing"}
        for folder in folders(plan.store):
            if folder.path in reached or folder.kind not in ("artifact", "damaged"):
                continue
            if folder.artifact is None:
                damage = [f"{folder.name}: its manifest is damaged or absent: `gc` removes it"]
            else:
                damage = [f"{line}: run its config again" for line in _set_aside(plan, folder.name, folder.artifact)]
                lines += [] if damage else [f"{folder.name}: {_whole(folder.artifact)}"]
            well = well and not damage
            lines += damage
    return lines or [f"nothing of this config is in {plan.store.root}"], well


def _whole(artifact: Artifact) -> str:
    return f"{counted(len(artifact.manifest['files']), 'file')} as written"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 file", "2 files"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _set_aside(plan: Plan, name: str, artifact: Artifact) -> list[str]:
    """Read every file of an artifact, and set damaged ones aside; returns a line for each."""
    lines = []
    for file in plan.store.verify(artifact):
        path = artifact.path / file
        aside = f"altered, set aside as {plan.store.set_aside(path)}" if path.exists() else "missing"
        lines.append(f"{name}: {path} is {aside}")
    return lines


def set_damage_aside(plan: Plan, slug: str, state: State) -> list[str]:
    """Read every file of a stage, also of a build in progress, and set damaged ones aside; returns a line for each."""
    if state.name == "missing":
        return []
    name, lines = plan.stages[slug].name, []
    if state.artifact is not None:
        lines += _set_aside(plan, name, state.artifact)
    elif state.name == "corrupt":
        lines.append(f"{name}: {', '.join(state.reasons)}")
    for path in plan.store.verify_build(plan.recipe(slug)):
        lines.append(f"{name}: {path} is altered, set aside as {plan.store.set_aside(path)}")
    return lines


def readable(size: int) -> str:
    """Return a number of bytes as people say it: "512 B", "3.4 MB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
