"""The table of classes as text to copy: CSV, LaTeX and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from split_matching.stages.pages.class_scores import ClassScores
from split_matching.stages.pages.text_tables import write_csv, write_latex

COLUMNS = ("id", "name", "group", "iou", "accuracy", "boundary_iou", "truth_pixels", "predicted_pixels")
SHARES = ("iou", "accuracy", "boundary_iou")
"""Columns in percent."""


def table_forms(rows: Sequence[ClassScores]) -> list[tuple[str, str]]:
    """Return the table in each form, as (name, text)."""
    return [("CSV", to_csv(rows)), ("LaTeX", to_latex(rows)), ("JSON", to_json(rows))]


def to_csv(rows: Sequence[ClassScores]) -> str:
    """Return a line for each class; empty where undefined."""
    return write_csv(COLUMNS, ([getattr(row, name) for name in COLUMNS] for row in rows))


def to_latex(rows: Sequence[ClassScores]) -> str:
    """Return a table for a paper; needs the package booktabs."""
    head = ["class", "group", "IoU", "accuracy", "boundary IoU"]
    return write_latex("llrrr", head, ([row.name, row.group, *_shares(row)] for row in rows))


def _shares(row: ClassScores) -> list[str]:
    values = [getattr(row, name) for name in SHARES]
    return ["-" if _is_undefined(value) else f"{value:.1f}" for value in values]


def to_json(rows: Sequence[ClassScores]) -> str:
    """Return a list of objects, one a line; null where undefined."""
    lines = []
    for row in rows:
        values = {name: getattr(row, name) for name in COLUMNS}
        plain = {name: None if _is_undefined(value) else value for name, value in values.items()}
        lines.append(json.dumps(plain, ensure_ascii=False))
    return "[" + ",\n ".join(lines) + "]\n"


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
