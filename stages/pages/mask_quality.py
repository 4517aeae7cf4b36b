"""How well pseudo masks cover unseen objects of training images: an analysis for the report, and for nothing else.

It reads training labels of unseen classes, which no stage before Evaluate may know. So it is called by the report
alone, returns numbers alone, and no other module may import it (tests/stages/pages/test_report.py holds that).

Source: choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.labels import read_all_labels
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.data.source import Source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.class_scores import ClassScores

FOUND = 0.5
"""A region finds an object if their IoU is at least this."""


@dataclass(frozen=True)
class ClassQuality:
    """One unseen class over the training images.

    Args:
        name: of the class.
        images: in how many images it occurs.
        best_iou: mean over these of the IoU with the region that fits it best, percent; NaN for no image.
        found: in how many of these that IoU is at least FOUND, percent; NaN for no image.
    """

    name: str
    images: int
    best_iou: float
    found: float


def summarise_mask_quality(ctx: StageContext, rows: Sequence[ClassScores], source: Source) -> dict[str, Any] | None:
    """Compare pseudo masks with the truth of unseen classes on evenly spread training images.

    Args:
        ctx: inputs `dataset` and `pseudo_masks`; reads `report.quality_images` of the config.
        rows: the classes.
        source: where the masks are.

    Returns:
        `rows`, a `ClassQuality` for each unseen class; the number of `images` looked at, `of` how many, and of
        `objects`; `best_iou` and `found` over all of them, and `least`, the IoU that counts as found, in percent. None
        where there is nothing to compare.
    """
    ids = sorted(str(image["id"]) for image in ctx.inputs["dataset"].json("train.json")["images"])
    count = min(ctx.config.report.quality_images, len(ids))
    names = {index: row.name for index, row in enumerate(rows) if row.group == "unseen"}
    if not count or not names or "pseudo_masks" not in ctx.inputs:
        return None
    chosen = choose_evenly(ids, count)
    shards = ctx.inputs["pseudo_masks"].shards("train")

    def read(image_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
        regions = shards.read(image_id, "labels")
        labels = read_all_labels(source, image_id, [row.id for row in rows])
        return resize_labels(labels, (regions.shape[0], regions.shape[1])), regions

    found = measure_masks(chosen, names, read, ctx.progress)
    present = [entry for entry in found if entry.images]
    if not present:
        return None
    total = sum(entry.images for entry in present)
    mean = {key: sum(getattr(entry, key) * entry.images for entry in present) / total for key in ("best_iou", "found")}
    return {"rows": found, "images": count, "of": len(ids), "objects": total, "least": 100 * FOUND, **mean}


def measure_masks(
    ids: Sequence[str],
    names: dict[int, str],
    read: Callable[[str], tuple[NDArray[np.integer], NDArray[np.integer]]],
    progress: Callable[[int, int], None],
) -> list[ClassQuality]:
    """Measure the pseudo masks of some training images.

    Args:
        ids: the images.
        names: unseen classes: label value to name.
        read: gives labels and regions of an image, both (h, w).
        progress: called with (done, total).

    Returns:
        One entry a class, in the order of `names`.
    """
    values: dict[int, list[float]] = {value: [] for value in names}
    for done, image_id in enumerate(ids, 1):
        for value, iou in find_best_ious(*read(image_id), list(names)).items():
            values[value].append(iou)
        progress(done, len(ids))
    return [
        ClassQuality(
            name,
            len(values[value]),
            100 * float(np.mean(values[value])) if values[value] else float("nan"),
            100 * float(np.mean(np.array(values[value]) >= FOUND)) if values[value] else float("nan"),
        )
        for value, name in names.items()
    ]


def find_best_ious(
    labels: NDArray[np.integer], regions: NDArray[np.integer], classes: Sequence[int]
) -> dict[int, float]:
    """Return the IoU of every class that an image shows with the region that fits it best.

    Args:
        labels: class of every cell. Shape: (h, w).
        regions: region of every cell, 0 is none. Shape: (h, w).
        classes: label values to look at.

    Returns:
        IoU in 0..1 by class, for those that occur.
    """
    sizes = np.bincount(regions.ravel())
    found = {}
    for value in classes:
        inside = labels == value
        area = int(inside.sum())
        if area == 0:
            continue
        both = np.bincount(regions[inside].ravel(), minlength=len(sizes))
        iou = both / (area + sizes - both)
        found[value] = float(iou[1:].max(initial=0.0))
    return found
