"""Finds damaged files of the cache and renames them, so that the stages which wrote them write them again."""

from __future__ import annotations

from split_matching.cache.folders import folders
from split_matching.cache.store import Artifact, State
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.text import format_count


def verify(plan: Plan, everything: bool = False) -> tuple[list[str], bool]:
    """Read every file that the config reaches, and rename damaged ones.

    Args:
        plan: the plan of the config.
        everything: read all other artifacts of the cache as well, of any config and data set.

    Returns:
        The lines to print, and whether no file is damaged or missing.
    """
    lines = []
    intact = True
    for slug, state in plan.states().items():
        damage = rename_damaged_files(plan, slug, state)
        intact = intact and not damage
        lines += [f"{line}: run {plan.stages[slug].name} again" for line in damage]
        if state.artifact is not None and not damage:
            lines.append(f"{plan.stages[slug].name}: {_describe_intact(state.artifact)}")
    if everything:
        more, others_intact = _verify_others(plan)
        lines += more
        intact = intact and others_intact
    return lines or [f"nothing of this config is in {plan.store.root}"], intact


def _verify_others(plan: Plan) -> tuple[list[str], bool]:
    """Read the artifacts that the config does not reach."""
    lines = []
    intact = True
    reached = {plan.folder(slug) for slug, state in plan.states().items() if state.name != "missing"}
    for folder in folders(plan.store):
        if folder.path in reached or folder.kind not in ("artifact", "damaged"):
            continue
        if folder.artifact is None:
            damage = [f"{folder.name}: its manifest is damaged or absent: `gc` removes it"]
        else:
            damage = [f"{line}: run its config again" for line in _rename_in(plan, folder.name, folder.artifact)]
        intact = intact and not damage
        lines += damage
        if folder.artifact is not None and not damage:
            lines.append(f"{folder.name}: {_describe_intact(folder.artifact)}")
    return lines, intact


def rename_damaged_files(plan: Plan, slug: str, state: State) -> list[str]:
    """Read every file of a stage, also of an unfinished build, and rename damaged ones; returns one line a file."""
    if state.name == "missing":
        return []
    name, lines = plan.stages[slug].name, []
    if state.artifact is not None:
        lines += _rename_in(plan, name, state.artifact)
    elif state.name == "corrupt":
        lines.append(f"{name}: {', '.join(state.reasons)}")
    for path in plan.store.verify_build(plan.recipe(slug)):
        lines.append(f"{name}: {path} is altered, renamed to {plan.store.set_aside(path)}")
    return lines


def _rename_in(plan: Plan, name: str, artifact: Artifact) -> list[str]:
    """Read every file of an artifact and rename damaged ones; returns one line a file."""
    lines = []
    for file in plan.store.verify(artifact):
        path = artifact.path / file
        what = f"altered, renamed to {plan.store.set_aside(path)}" if path.exists() else "missing"
        lines.append(f"{name}: {path} is {what}")
    return lines


def _describe_intact(artifact: Artifact) -> str:
    return f"{format_count(len(artifact.manifest['files']), 'file')} as written"
