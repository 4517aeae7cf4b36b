"""The classes of a run as its evaluation left them, for every page that shows them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from split_matching.errors import CorruptError
from split_matching.stages.pages.figures import hex_colours, palette


@dataclass(frozen=True)
class ClassRow:
    """One class as the evaluation left it; `iou` and `accuracy` in percent, NaN where undefined."""

    id: int
    name: str
    group: str
    iou: float
    accuracy: float
    truth_pixels: int
    predicted_pixels: int
    colour: str


def read_per_class(path: Path) -> list[ClassRow]:
    """Read `per_class.csv` as written by `stages.inference.metrics.write_metrics`, giving every class its colour.

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
        colours = hex_colours(palette(len(entries)))
        return [
            ClassRow(
                id=int(entry["id"]),
                name=entry["name"],
                group=entry["group"],
                iou=float(entry["iou"]),
                accuracy=float(entry["accuracy"]),
                truth_pixels=int(entry["truth_pixels"]),
                predicted_pixels=int(entry["predicted_pixels"]),
                colour=colour,
            )
            for entry, colour in zip(entries, colours, strict=True)
        ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CorruptError(f"{path} is not a table of classes ({error!r}): rerun Evaluate with --force") from error
