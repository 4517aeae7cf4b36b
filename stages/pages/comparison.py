"""The same validation images as several runs see them: for the page of an ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from split_matching.cache.store import Artifact
from split_matching.stages.data.images import read_all_labels, read_image
from split_matching.stages.data.layouts import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages import figures
from split_matching.stages.pages.class_rows import ClassRow, read_per_class
from split_matching.stages.pages.report import choose_examples

PANEL_SIDE = 220
_NOWHERE = -1


@dataclass(frozen=True)
class Panel:
    """One picture of a row: `uri` holds it, `note` says what share of the unseen pixels is right."""

    name: str
    uri: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """One image: the image, its truth, then one prediction a run."""

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
    rows = read_per_class(next(iter(runs.values())).file("per_class.csv"))
    unseen = {row.id for row in rows if row.group == "unseen"}
    images = [image for image in ctx.inputs["dataset"].json("val.json")["images"] if unseen & set(image["classes"])]
    source = open_source(ctx.config.data, ctx.data_root)
    shards = {name: artifact.shards("val") for name, artifact in runs.items()}
    return [
        _drawn(image_id, source, rows, {name: labels.read(image_id, "labels") for name, labels in shards.items()})
        for image_id in choose_examples(images, unseen, count)
    ]


def _drawn(
    image_id: str, source: Any, rows: Sequence[ClassRow], predictions: Mapping[str, npt.NDArray[np.uint8]]
) -> Comparison:
    """Draw one row."""
    truth = _signed(read_all_labels(source, image_id, [row.id for row in rows]), len(rows))
    hatched = np.array([row.group == "unseen" for row in rows])
    colours = figures.palette(len(rows))
    small = figures.resize_image(read_image(source.image_path(image_id)), PANEL_SIDE)
    faded = np.where(truth == _NOWHERE, 0.35, 1.0)
    hidden = (truth != _NOWHERE) & hatched[truth]
    panels = [
        Panel("image", figures.jpeg_data_uri(small)),
        Panel("truth", figures.jpeg_data_uri(figures.overlay(small, truth, colours, none=_NOWHERE, hatched=hatched))),
    ]
    for name, labels in predictions.items():
        drawn = figures.overlay(
            small, _signed(labels, len(rows)), colours, none=_NOWHERE, hatched=hatched, weight=faded
        )
        right = float((labels == truth)[hidden].mean()) if hidden.any() else math.nan
        note = f"{100 * right:.0f} % of unseen pixels right" if math.isfinite(right) else ""
        panels.append(Panel(name, figures.jpeg_data_uri(drawn), note))
    shown = [row.name for index, row in enumerate(rows) if hatched[index] and (truth == index).any()]
    return Comparison(image_id, tuple(shown), small.shape[1], small.shape[0], tuple(panels))


def _signed(labels: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int32]:
    """A label map with -1 wherever it holds no class index."""
    wide = labels.astype(np.int32)
    wide[wide >= classes] = _NOWHERE
    return wide
