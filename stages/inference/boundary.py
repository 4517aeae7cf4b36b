"""Boundary IoU: how well the outlines of predicted classes fit, where plain IoU of large regions hardly moves.

The boundary of a mask are its pixels within d pixels of its outline, d = 2 % of the image's diagonal; the boundary IoU
of a class is the IoU of the boundaries of its true and its predicted mask. The image's border is an outline.

Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, with the
distance of its code (3 x 3 erosions, so the larger one of horizontal and vertical distance). Choice: pixels are summed
over the split before they are divided, as for IoU; unlabelled pixels belong to no mask, of truth or prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 0.02
"""Distance d as a share of the image's diagonal."""


class BoundaryCounts:
    """Boundary pixels of every class, added up image by image.

    Args:
        classes: number of classes C.

    Attributes:
        common: pixels in the boundary of both the true and the predicted mask. Shape: (C,), int64.
        truth: pixels in the boundary of the true mask. Shape: (C,), int64.
        predicted: likewise of the predicted mask.
    """

    def __init__(self, classes: int) -> None:
        self.common, self.truth, self.predicted = np.zeros((3, classes), np.int64)

    def update(self, truth: NDArray[Any], prediction: NDArray[Any], ignore: int) -> None:
        """Add one image.

        Args:
            truth: (H, W) unsigned integers, 0..C-1 or `ignore`.
            prediction: (H, W), likewise, 0..C-1 wherever the truth is labelled.
            ignore: no class.
        """
        labelled = truth != ignore
        prediction = np.where(labelled, prediction, truth)
        distance = boundary_distance(*truth.shape)
        near_true = find_boundaries(truth, distance) & labelled
        near_predicted = find_boundaries(prediction, distance) & labelled
        both = near_true & near_predicted & (truth == prediction)
        self.common += self._count(truth[both])
        self.truth += self._count(truth[near_true])
        self.predicted += self._count(prediction[near_predicted])

    def merge(self, other: BoundaryCounts) -> None:
        """Add the counts of other images over the same classes."""
        self.common += other.common
        self.truth += other.truth
        self.predicted += other.predicted

    @property
    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU of each class as a fraction, NaN for one that occurs nowhere. Shape: (C,)."""
        union = self.truth + self.predicted - self.common
        return np.divide(self.common, union, out=np.full(len(union), math.nan), where=union > 0)

    def _count(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=len(self.common))


def boundary_distance(height: int, width: int) -> int:
    """Return d for an image of this size, in pixels; at least 1."""
    return max(1, round(WIDTH * math.hypot(height, width)))


def find_boundaries(labels: NDArray[Any], distance: int) -> NDArray[np.bool_]:
    """Return the pixels that have another label, or the outside of the image, within a distance.

    A pixel of a class is then in the boundary of this class, so that all classes take one pass.

    Args:
        labels: (H, W).
        distance: in pixels, of the larger one of horizontal and vertical distance.

    Returns:
        (H, W) bool.
    """
    size = 2 * distance + 1
    padded = np.pad(labels, distance, mode="edge")
    low, high = (_filter(pick, _filter(pick, padded, size).T, size).T for pick in (np.minimum, np.maximum))
    found = low != high
    found[:distance] = found[-distance:] = found[:, :distance] = found[:, -distance:] = True
    return found


def _filter(
    pick: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]], values: NDArray[Any], size: int
) -> NDArray[Any]:
    """Return the minimum or maximum of every `size` successive rows, in about log2(size) steps."""
    width = 1
    while width < size:
        step = min(width, size - width)
        values = pick(values[:-step], values[step:])
        width += step
    return values
