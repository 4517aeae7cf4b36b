"""How well pseudo masks cover unseen objects of training images: an analysis for the report, and for nothing else.

It reads training labels of unseen classes, which no stage before Evaluate may know. So it is called by the report
alone, returns numbers alone, and no other module may import it (tests/test_architecture.py holds that).

Source: choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def best_ious(labels: NDArray[np.integer], regions: NDArray[np.integer], classes: Sequence[int]) -> dict[int, float]:
    """IoU of every class that an image shows with the region that fits it best.

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


def measure(
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
        for value, iou in best_ious(*read(image_id), list(names)).items():
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
