"""Files with the metrics of a run; equal inputs give equal bytes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.class_list import ClassEntry
from split_matching.stages.ground.csv_cells import escape_cell
from split_matching.stages.inference.boundary import WIDTH
from split_matching.stages.inference.metrics import (
    ConfusionMatrix,
    Scores,
    average_groups,
    compute_scores,
)

BOUNDARY = ("mIoU_seen", "mIoU_unseen", "hIoU")
"""Means of the boundary IoU, by their names under `boundary` in metrics.json."""


def write_metrics(
    out: Path,
    confusion: ConfusionMatrix,
    classes: Sequence[ClassEntry],
    seen_mask: NDArray[np.bool_] | Sequence[bool],
    extra: Mapping[str, Any] | None = None,
    boundary: NDArray[np.float64] | None = None,
) -> Scores:
    """Write `metrics.json`, `per_class.csv` and `confusion.npy`; equal inputs give equal bytes.

    metrics.json: pAcc, mIoU_seen, mIoU_unseen, hIoU in percent (unrounded, null where undefined), images, pixels
    (labelled), extra, and under `boundary` the means of the boundary IoU and its width. per_class.csv: id, name, group
    (seen, unseen), iou, accuracy and boundary_iou in percent (`nan` where undefined), truth_pixels, predicted_pixels;
    one row a class in list order. confusion.npy: (C, C) int64.

    Args:
        out: an existing folder.
        confusion: counts over the whole split.
        classes: the C classes, in the order of the matrix.
        seen_mask: (C,) bool.
        extra: JSON values to keep beside the metrics, e.g. `gamma_sweep`; NaN becomes null.
        boundary: boundary IoU of each class as a fraction, NaN where undefined; None: undefined for all. Shape: (C,).

    Returns:
        The metrics that were written, as fractions.

    Raises:
        ValueError: the number of classes does not fit.
    """
    if len(classes) != confusion.classes:
        raise ValueError(f"{len(classes)} class names for a confusion matrix of {confusion.classes} classes")
    result = compute_scores(confusion, seen_mask)
    counted = {"images": confusion.images, "pixels": confusion.pixels}
    seen = np.asarray(seen_mask, dtype=bool)
    outlines = np.full(confusion.classes, math.nan) if boundary is None else boundary
    means = dict(zip(BOUNDARY, (100 * mean for mean in average_groups(outlines, seen)), strict=True))
    near = {"boundary": {**means, "width": WIDTH}}
    metrics = {**result.percent(), **near, **counted, "extra": dict(extra or {})}
    text = json.dumps(_without_nan(metrics), indent=1, ensure_ascii=False, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    groups = ["seen" if there else "unseen" for there in seen]
    _write_per_class(out / "per_class.csv", confusion, classes, groups, (result.iou, result.accuracy, outlines))
    _write_array(out / "confusion.npy", confusion.counts)
    return result


def write_per_image(path: Path, images: Sequence[tuple[str, float, float]]) -> None:
    """Write id, pAcc and mIoU of images, as of `score_image`; in percent, `nan` where undefined."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "pAcc", "mIoU"])
        writer.writerows(
            (escape_cell(image_id), f"{100 * accuracy:.4f}", f"{100 * iou:.4f}") for image_id, accuracy, iou in images
        )


def write_confused(path: Path, most: NDArray[np.int64], where: NDArray[np.int64], ids: Sequence[str]) -> None:
    """Write for each pair of truth and prediction that occurs the image with most pixels of it.

    Args:
        path: the CSV: places of truth and prediction in the list of classes, pixels, id of the image.
        most: these pixels. Shape: (C, C).
        where: place of the image in `ids`. Shape: (C, C).
        ids: of all images.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["truth", "prediction", "pixels", "image"])
        for truth, prediction in np.argwhere(most):
            image_id = ids[where[truth, prediction]]
            writer.writerow([truth, prediction, most[truth, prediction], escape_cell(image_id)])


def _write_per_class(
    path: Path,
    confusion: ConfusionMatrix,
    classes: Sequence[ClassEntry],
    groups: Sequence[str],
    shares: tuple[NDArray[np.float64], ...],
) -> None:
    truth, predicted = confusion.counts.sum(axis=1), confusion.counts.sum(axis=0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "name", "group", "iou", "accuracy", "boundary_iou", "truth_pixels", "predicted_pixels"])
        for index, (entry, group) in enumerate(zip(classes, groups, strict=True)):
            percent = [f"{100 * value[index]:.4f}" for value in shares]
            writer.writerow(
                [entry.id, escape_cell(entry.name), group, *percent, int(truth[index]), int(predicted[index])]
            )


def _write_array(path: Path, values: NDArray[Any]) -> None:
    content = io.BytesIO()  # written by us: numpy's own way to a file does not say that the disk is full
    np.save(content, values)
    path.write_bytes(content.getvalue())


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
