"""What the verbs `status`, `plan` and `verify` print. Reads the cache; only `verify` changes it."""

from __future__ import annotations

from pipeline.graph import Plan, Stage
from pipeline.progress import duration


def status_lines(plan: Plan) -> list[str]:
    """Return a table of all stages: how each stands, its size and its folder."""
    states = plan.states()
    width = max(len(stage.name) for stage in plan.stages.values())
    lines = []
    for slug, state in states.items():
        size = f", {readable(_size(plan, slug))}" if state.artifact is not None else ""
        place = f", {plan.folder(slug)}" if state.artifact is not None else ""
        lines.append(f"{plan.stages[slug].name:<{width}}  {state}{size}{place}")
    return lines


def plan_lines(plan: Plan, stage: Stage) -> list[str]:
    """Return what running a stage would do, and why: one line for every stage on the way."""
    states = plan.states([stage.slug])
    width = max(len(plan.stages[slug].name) for slug in states)
    lines = []
    for slug, state in states.items():
        why = [*state.reasons, *(plan.why_missing(slug) if state.name == "missing" else [])]
        took = f", took {duration(state.artifact.manifest['seconds'])}" if state.artifact is not None else ""
        count = f" {state.done}/{state.total}" if state.total else ""
        action = "fresh" if state.fresh else "run  "
        reason = f" ({', '.join(why)})" if why else ""
        lines.append(f"{plan.stages[slug].name:<{width}}  {action}  {state.name}{count}{reason}{took}")
    return lines


def verify(plan: Plan) -> tuple[list[str], bool]:
    """Read every file that the config reaches, and set damaged ones aside so that their stages make them again.

    Returns:
        The lines to print, and whether all is well.
    """
    lines = []
    well = True
    for slug, state in plan.states().items():
        if state.name == "missing" or (state.artifact is None and state.name == "partial"):
            continue
        name = plan.stages[slug].name
        if state.artifact is None:
            well = False
            lines.append(f"{name}: {', '.join(state.reasons)}")
            continue
        damaged = plan.store.verify(state.artifact)
        for file in damaged:
            path = state.artifact.path / file
            aside = f"altered, set aside as {plan.store.set_aside(path)}" if path.exists() else "missing"
            lines.append(f"{name}: {path} is {aside}: run {name} again")
        well = well and not damaged
        if not damaged:
            lines.append(f"{name}: {len(state.artifact.manifest['files'])} files are as they were written")
    return lines, well


def readable(size: int) -> str:
    """Return a number of bytes as people say it: "512 B", "3.4 MB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _size(plan: Plan, slug: str) -> int:
    return sum(int(entry["bytes"]) for entry in plan.artifact(slug).manifest["files"].values())
