"""The classes of a run with their scores, for every page that shows them: read, drawn, and compared with the truth."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import CorruptError
from split_matching.stages.data.labels import read_all_labels
from split_matching.stages.data.source import Source
from split_matching.stages.ground.csv_cells import read_cell
from split_matching.stages.pages.colours import class_colours, hex_colours, is_light
from split_matching.stages.pages.overlays import NO_LABEL, overlay


@dataclass(frozen=True)
class ClassScores:
    """One class and its scores; `iou`, `accuracy` and `boundary_iou` in percent, NaN where undefined."""

    id: int
    name: str
    group: str
    iou: float
    accuracy: float
    boundary_iou: float
    truth_pixels: int
    predicted_pixels: int
    colour: str

    @property
    def light(self) -> bool:
        """Whether lines on its colour must be dark."""
        return is_light(bytes.fromhex(self.colour[1:]))


def read_class_scores(path: Path) -> list[ClassScores]:
    """Read `per_class.csv` as written by `stages.inference.metric_files.write_metrics`, giving every class its colour.

    Args:
        path: the file.

    Returns:
        One row a class, in list order.

    Raises:
        CorruptError: a column is missing or a value is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            entries = list(csv.DictReader(file))
        names = [read_cell(str(entry["name"])) for entry in entries]
        colours = hex_colours(class_colours(names))
        return [
            ClassScores(
                id=int(entry["id"]),
                name=name,
                group=entry["group"],
                iou=float(entry["iou"]),
                accuracy=float(entry["accuracy"]),
                boundary_iou=float(entry.get("boundary_iou", "nan")),  # not there in early files
                truth_pixels=int(entry["truth_pixels"]),
                predicted_pixels=int(entry["predicted_pixels"]),
                colour=colour,
            )
            for entry, name, colour in zip(entries, names, colours, strict=True)
        ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CorruptError(f"{path} is not a table of classes ({error!r}): rerun Evaluate with --force") from error


def colours_of(rows: Sequence[ClassScores]) -> NDArray[np.uint8]:
    """Return the colour of each class. Shape: (C, 3)."""
    return class_colours([row.name for row in rows])


def mark_unseen(rows: Sequence[ClassScores]) -> NDArray[np.bool_]:
    """Return for each class whether it is unseen. Shape: (C,)."""
    return np.array([row.group == "unseen" for row in rows], dtype=bool)


def mark_unlabelled(labels: NDArray[Any], rows: Sequence[ClassScores]) -> NDArray[np.int32]:
    """Return a label map as int32 with NO_LABEL wherever it holds no class.

    Args:
        labels: indices into `rows`; anything above is no class. Shape: (H, W).
        rows: the classes.
    """
    wide = labels.astype(np.int32)
    wide[wide >= len(rows)] = NO_LABEL
    return wide


def read_truth(source: Source, image_id: str, rows: Sequence[ClassScores]) -> NDArray[np.int32]:
    """Return the annotation of an image as indices into `rows`, NO_LABEL elsewhere. Shape: (H, W)."""
    return mark_unlabelled(read_all_labels(source, image_id, [row.id for row in rows]), rows)


def draw_classes(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    rows: Sequence[ClassScores],
    scored: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Lay classes over an image in their colours, unseen ones hatched.

    Args:
        image: (H, W, 3) uint8.
        labels: (h, w) indices into `rows`, or NO_LABEL.
        rows: the classes.
        scored: (h, w) bool; colours are paler where this is false. None is everywhere.

    Returns:
        (H, W, 3) uint8.
    """
    weight = None if scored is None else np.where(scored, 1.0, 0.35)
    return overlay(image, labels, colours_of(rows), hatched=mark_unseen(rows), weight=weight)
