"""Finds the artifact of another config that a stage's result differs from least, for what `plan` and `inspect` say."""

from __future__ import annotations

from split_matching.cache.artifact import Artifact
from split_matching.cache.entry import Recipe
from split_matching.cache.keys import changed_names
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.text import describe_change, flatten


def find_nearest(stage: Stage) -> tuple[Artifact | None, list[str]]:
    """Return the artifact of another config that a stage's result differs from least, and in what it differs.

    Equal inputs count most, and the newest of equally near ones is taken. Not the newest of all: that may be a trial on
    two images.

    Returns:
        The artifact, None where there is no other; and e.g. ["config pseudo_masks.k 8 -> 12"].
    """
    recipe = stage.recipe
    others = [(artifact, _differences(artifact, recipe)) for artifact in stage.entry.others()]

    def distance(other: tuple[Artifact, list[str]]) -> tuple[int, int]:
        return sum(line.startswith("input ") for line in other[1]), len(other[1])

    return min(others, key=distance, default=(None, []))


def _differences(artifact: Artifact, recipe: Recipe) -> list[str]:
    """Return how a recipe differs from what an artifact of another key was made of."""
    manifest = artifact.manifest
    before, after = flatten(manifest["config"]), flatten(recipe.config)
    names = changed_names(before, after)
    lines = [f"config {name} {describe_change(before.get(name), after.get(name))}" for name in names]
    if manifest["version"] != recipe.version:
        lines.append(f"version {manifest['version']} -> {recipe.version}")
    # inputs that are not there yet are waited for, which is said by other means
    known = {name: content for name, content in recipe.inputs.items() if content}
    lines += [f"input {name} changed" for name in changed_names(manifest["inputs"], known) if name in known]
    return lines or ["config upstream changed"] if all(recipe.inputs.values()) else lines


def describe_missing(stage: Stage) -> str:
    """Return what to do about an artifact that is not there, with what another config has."""
    _, why = find_nearest(stage)
    other = f" (another config has one: {', '.join(why[:3])})" if why else ""
    return f"{stage.plan.root} holds nothing of {stage.command} for this config{other}: run {stage.command} first"
