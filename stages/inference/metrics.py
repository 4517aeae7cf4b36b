"""Metrics of generalised zero-shot segmentation: one confusion matrix over the whole split, and what follows from it.

Generalised means one decision over seen and unseen classes together (a single argmax), never novel classes alone.
IoU of a class is its diagonal entry over its row plus its column minus its diagonal entry; a class that occurs neither
in the truth nor in the prediction has no IoU (NaN) and enters no mean.

Source: evaluation protocol of the zero-shot segmentation literature (pAcc, mIoU of seen, mIoU of unseen, and their
harmonic mean computed from unrounded values).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from split_matching.configs.class_list import ClassEntry
from split_matching.errors import DataError

_BYTE = 256  # values a uint8 label can take

GROUPS = ("seen", "unseen", "excluded")
"""What a class counts as: seen, unseen, or neither (unseen classes while a fold of seen classes is being tuned on)."""


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
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes), dtype=np.int64)
        self.images = 0

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.counts.shape[0])

    @property
    def pixels(self) -> int:
        """Labelled pixels seen so far."""
        return int(self.counts.sum())

    def update(self, truth: npt.NDArray[Any], prediction: npt.NDArray[Any], ignore: int = 255) -> None:
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
        if truth.dtype == prediction.dtype == np.uint8 and self.classes <= _BYTE:
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

    def _count_bytes(self, truth: npt.NDArray[Any], prediction: npt.NDArray[Any], ignore: int) -> npt.NDArray[np.int64]:
        # One histogram over all 65,536 byte pairs needs no mask and no copy of the kept pixels; the range check then
        # looks at 65,536 counts instead of at every pixel.
        pairs = np.left_shift(truth, 8, dtype=np.uint16)
        pairs |= prediction
        table = np.bincount(pairs.ravel(), minlength=_BYTE * _BYTE).reshape(_BYTE, _BYTE)
        if 0 <= ignore < _BYTE:
            table[ignore] = 0
        wrong_truth = table[self.classes :].any(axis=1)
        if wrong_truth.any():
            raise self._out_of_range("truth", self.classes + int(wrong_truth.argmax()), f" or {ignore}")
        wrong_prediction = table[:, self.classes :].any(axis=0)
        if wrong_prediction.any():
            raise self._out_of_range("prediction", self.classes + int(wrong_prediction.argmax()))
        return table[: self.classes, : self.classes].astype(np.int64, copy=False)

    def _count_any(self, truth: npt.NDArray[Any], prediction: npt.NDArray[Any], ignore: int) -> npt.NDArray[np.int64]:
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
    iou: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]


def scores(
    confusion: ConfusionMatrix | npt.NDArray[np.int64],
    seen_mask: npt.NDArray[np.bool_] | Sequence[bool],
    unseen_mask: npt.NDArray[np.bool_] | Sequence[bool] | None = None,
) -> Scores:
    """Compute all metrics from one confusion matrix.

    Args:
        confusion: the matrix, or its (C, C) counts, rows truth, columns prediction.
        seen_mask: (C,) bool, True for classes that had masks in training.
        unseen_mask: (C,) bool, True for classes that count as unseen; None: all that are not seen. Given when some
            classes belong to neither group (unseen classes while tuning on a fold of hidden seen classes).

    Returns:
        The metrics, as unrounded fractions.

    Raises:
        ValueError: shapes do not fit, or a class is in both groups.
    """
    counts = confusion.counts if isinstance(confusion, ConfusionMatrix) else np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {counts.shape}")
    seen, unseen = _group_masks(len(counts), seen_mask, unseen_mask)
    correct = np.diagonal(counts).astype(np.float64)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    iou = _ratio(correct, truth + predicted - np.diagonal(counts))
    miou_seen, miou_unseen = _mean(iou[seen]), _mean(iou[unseen])
    return Scores(
        pacc=float(_ratio(correct.sum(keepdims=True), truth.sum(keepdims=True))[0]),
        miou_seen=miou_seen,
        miou_unseen=miou_unseen,
        hiou=harmonic_mean(miou_seen, miou_unseen),
        iou=iou,
        accuracy=_ratio(correct, truth),
    )


def image_scores(counts: npt.NDArray[np.int64]) -> tuple[float, float]:
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


def _group_masks(
    classes: int,
    seen_mask: npt.NDArray[np.bool_] | Sequence[bool],
    unseen_mask: npt.NDArray[np.bool_] | Sequence[bool] | None,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    seen = np.asarray(seen_mask, dtype=bool)
    unseen = ~seen if unseen_mask is None else np.asarray(unseen_mask, dtype=bool)
    if seen.shape != (classes,) or unseen.shape != (classes,):
        raise ValueError(f"group masks have shapes {seen.shape} and {unseen.shape}, expected ({classes},)")
    if (seen & unseen).any():
        raise ValueError(f"class index {int((seen & unseen).argmax())} is marked both seen and unseen")
    return seen, unseen


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Divide elementwise, NaN where the whole is zero."""
    result = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=result, where=whole != 0)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of what is not NaN; NaN (without a warning) when nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else math.nan


def write_metrics(
    out: Path,
    confusion: ConfusionMatrix,
    classes: Sequence[ClassEntry],
    seen_mask: npt.NDArray[np.bool_] | Sequence[bool],
    extra: Mapping[str, Any] | None = None,
    unseen_mask: npt.NDArray[np.bool_] | Sequence[bool] | None = None,
) -> Scores:
    """Write `metrics.json`, `per_class.csv` and `confusion.npy`; equal inputs give equal bytes.

    metrics.json: pAcc, mIoU_seen, mIoU_unseen, hIoU in percent (unrounded, null where undefined), images, pixels
    (labelled), extra. per_class.csv: id, name, group (see `GROUPS`), iou and accuracy in percent (`nan` where
    undefined), truth_pixels, predicted_pixels; one row a class in list order. confusion.npy: (C, C) int64.

    Args:
        out: an existing folder.
        confusion: counts over the whole split.
        classes: the C classes, in the order of the matrix.
        seen_mask: (C,) bool.
        extra: JSON values to keep beside the metrics, e.g. `gamma_sweep`; NaN becomes null.
        unseen_mask: (C,) bool or None, as for `scores`.

    Returns:
        The metrics that were written, as fractions.

    Raises:
        ValueError: the number of classes does not fit.
    """
    if len(classes) != confusion.classes:
        raise ValueError(f"{len(classes)} class names for a confusion matrix of {confusion.classes} classes")
    result = scores(confusion, seen_mask, unseen_mask)
    metrics = {
        "pAcc": 100 * result.pacc,
        "mIoU_seen": 100 * result.miou_seen,
        "mIoU_unseen": 100 * result.miou_unseen,
        "hIoU": 100 * result.hiou,
        "images": confusion.images,
        "pixels": confusion.pixels,
        "extra": dict(extra or {}),
    }
    text = json.dumps(_without_nan(metrics), indent=1, ensure_ascii=False, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    seen, unseen = _group_masks(confusion.classes, seen_mask, unseen_mask)
    groups = [GROUPS[0] if s else GROUPS[1] if u else GROUPS[2] for s, u in zip(seen, unseen, strict=True)]
    _write_per_class(out / "per_class.csv", confusion, classes, groups, result)
    array = io.BytesIO()  # written by us: numpy's own way to a file does not say that the disk is full
    np.save(array, confusion.counts)
    (out / "confusion.npy").write_bytes(array.getvalue())
    return result


def write_per_image(path: Path, images: Sequence[tuple[str, float, float]]) -> None:
    """Write id, pAcc and mIoU of images, given as of `image_scores`; in percent, `nan` where undefined."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "pAcc", "mIoU"])
        writer.writerows((image_id, f"{100 * accuracy:.4f}", f"{100 * iou:.4f}") for image_id, accuracy, iou in images)


def _write_per_class(
    path: Path, confusion: ConfusionMatrix, classes: Sequence[ClassEntry], groups: Sequence[str], result: Scores
) -> None:
    truth, predicted = confusion.counts.sum(axis=1), confusion.counts.sum(axis=0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "name", "group", "iou", "accuracy", "truth_pixels", "predicted_pixels"])
        for index, (entry, group) in enumerate(zip(classes, groups, strict=True)):
            percent = [f"{100 * value[index]:.4f}" for value in (result.iou, result.accuracy)]
            writer.writerow([entry.id, entry.name, group, *percent, int(truth[index]), int(predicted[index])])


def _without_nan(value: Any) -> Any:
    """Return plain JSON values with every NaN or infinity as None, numpy scalars and arrays included."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _without_nan(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, np.generic):
        return _without_nan(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
