"""Metrics of generalised zero-shot segmentation: one confusion matrix over the whole split, and what follows from it.

Generalised means one decision over seen and unseen classes together (a single argmax), never novel classes alone.
IoU of a class is its diagonal entry over its row plus its column minus its diagonal entry; a class that occurs neither
in the truth nor in the prediction has no IoU (NaN) and enters no mean.

Source: evaluation protocol of the zero-shot segmentation literature (pAcc, mIoU of seen, mIoU of unseen, and their
harmonic mean computed from unrounded values).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import DataError

BYTE = 256
"""Values that a uint8 label can take."""

AT_ONCE = 2**20
"""Pixels that are counted at once: NumPy's histogram makes 8 bytes of each."""


class ConfusionMatrix:
    """Pixel counts of every (truth, prediction) pair, added up image by image.

    Args:
        classes: number of classes C, at least 1.

    Attributes:
        counts: (C, C) int64, pixels; rows are truth, columns are prediction.
        images: how many label maps were added.
    """

    def __init__(self, classes: int) -> None:
        """Start with zero pixels."""
        if classes < 1:
            raise ValueError(f"a confusion matrix needs at least one class, not {classes}")
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), dtype=np.int64)
        self.images = 0

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.counts.shape[0])

    @property
    def pixels(self) -> int:
        """Labelled pixels seen so far."""
        return int(self.counts.sum())

    def update(self, truth: NDArray[Any], prediction: NDArray[Any], ignore: int = 255) -> None:
        """Add one image (or any batch of equally shaped label maps).

        A pixel whose truth is `ignore` counts nowhere, whatever its prediction. Every other pixel must have a predicted
        class: leaving out pixels without one would flatter the result.

        Args:
            truth: (H, W) integers, 0..C-1 or `ignore`.
            prediction: (H, W) integers, 0..C-1 wherever the truth is labelled.
            ignore: truth value of pixels that are no class; outside 0..C-1.

        Raises:
            ValueError: `ignore` is a class index, or the arrays are not integers.
            DataError: shapes differ, or a value is out of range; nothing is added then.
        """
        if 0 <= ignore < self.classes:
            raise ValueError(f"ignore value {ignore} is also a class index (0..{self.classes - 1})")
        if truth.shape != prediction.shape:
            raise DataError(
                f"truth has shape {truth.shape} but the prediction has {prediction.shape}: "
                "resize the prediction to its image before counting"
            )
        if truth.dtype.kind not in "iu" or prediction.dtype.kind not in "iu":
            raise ValueError(f"label maps are integers, not {truth.dtype} and {prediction.dtype}")
        # fewer pixels than entries of the table are counted faster one by one
        if truth.dtype == prediction.dtype == np.uint8 and self.classes <= BYTE and truth.size >= BYTE * BYTE:
            self.counts += self._count_bytes(truth, prediction, ignore)
        else:
            self.counts += self._count_any(truth, prediction, ignore)
        self.images += 1

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix over the same classes, e.g. of another shard."""
        if other.classes != self.classes:
            raise ValueError(f"cannot merge {other.classes} classes into {self.classes}")
        self.counts += other.counts
        self.images += other.images

    def _count_bytes(self, truth: NDArray[Any], prediction: NDArray[Any], ignore: int) -> NDArray[np.int64]:
        # One histogram over all 65,536 byte pairs needs no mask and no copy of the kept pixels; the range check then
        # looks at 65,536 counts instead of at every pixel.
        table = np.zeros((BYTE, BYTE), np.int64)
        rows, columns = truth.ravel(), prediction.ravel()
        for first in range(0, rows.size, AT_ONCE):
            pairs = np.left_shift(rows[first : first + AT_ONCE], 8, dtype=np.uint16)
            pairs |= columns[first : first + AT_ONCE]
            table += np.bincount(pairs, minlength=BYTE * BYTE).reshape(BYTE, BYTE)
        if 0 <= ignore < BYTE:
            table[ignore] = 0
        wrong_truth = table[self.classes :].any(axis=1)
        if wrong_truth.any():
            raise self._out_of_range("truth", self.classes + int(wrong_truth.argmax()), f" or {ignore}")
        wrong_prediction = table[:, self.classes :].any(axis=0)
        if wrong_prediction.any():
            raise self._out_of_range("prediction", self.classes + int(wrong_prediction.argmax()))
        return table[: self.classes, : self.classes]

    def _count_any(self, truth: NDArray[Any], prediction: NDArray[Any], ignore: int) -> NDArray[np.int64]:
        labelled = truth != ignore
        rows, columns = truth[labelled].astype(np.int64), prediction[labelled].astype(np.int64)
        for what, values, also in (("truth", rows, f" or {ignore}"), ("prediction", columns, "")):
            wrong = (values < 0) | (values >= self.classes)
            if wrong.any():
                raise self._out_of_range(what, int(values[wrong][0]), also)
        size = self.classes * self.classes
        counts = np.bincount(rows * self.classes + columns, minlength=size)
        return counts.reshape(self.classes, self.classes).astype(np.int64, copy=False)

    def _out_of_range(self, what: str, value: int, also: str = "") -> DataError:
        return DataError(
            f"{what} holds the value {value} at a labelled pixel, expected a class index 0..{self.classes - 1}{also}: "
            "check that both label maps use the same class list"
        )


@dataclass(frozen=True)
class Scores:
    """Metrics as fractions (0..1), NaN where undefined.

    Attributes:
        pacc: correct over labelled pixels.
        miou_seen: mean IoU of the seen classes that have one.
        miou_unseen: mean IoU of the unseen classes that have one.
        hiou: harmonic mean of the two means; NaN when either is, 0 when both are 0.
        iou: (C,) float64, NaN for a class absent from truth and prediction.
        accuracy: (C,) float64, correct over truth pixels (recall), NaN for a class absent from the truth.
    """

    pacc: float
    miou_seen: float
    miou_unseen: float
    hiou: float
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def percent(self) -> dict[str, float]:
        """Return the four headline numbers in percent, unrounded."""
        return {
            "pAcc": 100 * self.pacc,
            "mIoU_seen": 100 * self.miou_seen,
            "mIoU_unseen": 100 * self.miou_unseen,
            "hIoU": 100 * self.hiou,
        }


def compute_scores(
    confusion: ConfusionMatrix | NDArray[np.int64],
    seen_mask: NDArray[np.bool_] | Sequence[bool],
) -> Scores:
    """Compute all metrics from one confusion matrix.

    Args:
        confusion: the matrix, or its (C, C) counts, rows truth, columns prediction.
        seen_mask: (C,) bool, True for classes that had masks in training.

    Returns:
        The metrics, as unrounded fractions.

    Raises:
        ValueError: shapes do not fit.
    """
    counts = confusion.counts if isinstance(confusion, ConfusionMatrix) else np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {counts.shape}")
    seen = np.asarray(seen_mask, dtype=bool)
    if seen.shape != (len(counts),):
        raise ValueError(f"the mask of seen classes has shape {seen.shape}, expected ({len(counts)},)")
    correct = np.diagonal(counts).astype(np.float64)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    iou = _ratio(correct, truth + predicted - np.diagonal(counts))
    miou_seen, miou_unseen, hiou = average_groups(iou, seen)
    return Scores(
        pacc=float(_ratio(correct.sum(keepdims=True), truth.sum(keepdims=True))[0]),
        miou_seen=miou_seen,
        miou_unseen=miou_unseen,
        hiou=hiou,
        iou=iou,
        accuracy=_ratio(correct, truth),
    )


def average_groups(iou: NDArray[np.float64], seen: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the mean over seen classes, over unseen classes, and their harmonic mean.

    Args:
        iou: of each class, NaN where undefined. Shape: (C,).
        seen: which had masks in training. Shape: (C,).
    """
    means = _mean(iou[seen]), _mean(iou[~seen])
    return (*means, harmonic_mean(*means))


def score_image(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the pixel accuracy of one image and the mean IoU of the classes that its truth shows.

    Args:
        counts: the image's own confusion matrix. Shape: (C, C).

    Returns:
        Both as fractions, NaN for an image without a labelled pixel.
    """
    correct, truth = np.diagonal(counts), counts.sum(axis=1)
    iou = _ratio(correct, truth + counts.sum(axis=0) - correct)
    accuracy = _ratio(correct.sum(keepdims=True), truth.sum(keepdims=True))
    return float(accuracy[0]), _mean(iou[truth > 0])


def harmonic_mean(seen: float, unseen: float) -> float:
    """Return 2SU / (S + U): NaN when either is NaN, 0 when both are 0."""
    total = seen + unseen
    return 0.0 if total == 0 else 2.0 * seen * unseen / total


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide elementwise, NaN where the whole is zero."""
    result = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=result, where=whole != 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN; NaN (without a warning) when nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else math.nan
