"""The same validation images as several runs see them: for the page of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_matching.cache.artifact import Artifact
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.class_scores import (
    ClassScores,
    draw_classes,
    mark_unlabelled,
    mark_unseen,
    read_class_scores,
    read_truth,
)
from split_matching.stages.pages.examples import choose_examples
from split_matching.stages.pages.overlays import NO_LABEL, jpeg_data_uri, scale_to_side

COMPARISON_SIDE = 220
"""Longer side of a picture, pixels (choice)."""


@dataclass(frozen=True)
class Panel:
    """One picture of a row: `uri` holds it, `note` says what share of the unseen pixels is right."""

    name: str
    uri: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """One row of pictures: the image, its truth, then one prediction a run; `names` are its unseen classes."""

    id: str
    names: tuple[str, ...]
    width: int
    height: int
    panels: tuple[Panel, ...]


def compare(ctx: StageContext, runs: Mapping[str, Artifact], count: int) -> list[Comparison]:
    """Draw validation images, chosen by rule as in the report and only those that show an unseen class.

    Args:
        ctx: input `dataset`; reads `data` of the config.
        runs: artifacts of Evaluate by variant; they score the same classes.
        count: most images to draw.

    Returns:
        Rows in order of ids; none without a run or without an image that shows an unseen class.
    """
    if not runs:
        return []
    rows = read_class_scores(next(iter(runs.values())).file("per_class.csv"))
    unseen = {row.id for row in rows if row.group == "unseen"}
    images = [image for image in ctx.inputs["dataset"].json("val.json")["images"] if unseen & set(image["classes"])]
    source = open_source(ctx.config.data, ctx.data_root)
    shards = {name: artifact.shards("val") for name, artifact in runs.items()}
    return [
        _draw_row(image_id, source, rows, {name: labels.read(image_id, "labels") for name, labels in shards.items()})
        for image_id in choose_examples(images, unseen, count)
    ]


def _draw_row(
    image_id: str, source: Source, rows: Sequence[ClassScores], predictions: Mapping[str, NDArray[np.uint8]]
) -> Comparison:
    image = scale_to_side(read_image(source.image_path(image_id)), COMPARISON_SIDE)
    truth, unseen = read_truth(source, image_id, rows), mark_unseen(rows)
    labelled = truth != NO_LABEL
    counted = labelled & unseen[truth]
    panels = [
        Panel("image", jpeg_data_uri(image)),
        Panel("truth", jpeg_data_uri(draw_classes(image, truth, rows))),
    ]
    for name, labels in predictions.items():
        drawn = draw_classes(image, mark_unlabelled(labels, rows), rows, scored=labelled)
        note = f"{100 * (labels == truth)[counted].mean():.0f} % of unseen pixels right" if counted.any() else ""
        panels.append(Panel(name, jpeg_data_uri(drawn), note))
    shown = [row.name for index, row in enumerate(rows) if unseen[index] and (truth == index).any()]
    return Comparison(image_id, tuple(shown), image.shape[1], image.shape[0], tuple(panels))
