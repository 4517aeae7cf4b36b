"""The confusion matrix as a page shows it: shares of the truth, and the image with most of each confusion."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import CorruptError
from split_matching.stages.ground.csv_cells import read_cell
from split_matching.stages.pages.class_scores import ClassScores

MOST_CLASSES = 40
"""Most classes in a matrix that can be read (choice); of more, the unseen and the most confused ones are shown."""

SHOWN = 8
"""Largest confusions of which an image is drawn (choice)."""

Confused = Mapping[tuple[int, int], tuple[int, str]]
"""By places of truth and prediction: pixels in the image with most of them, and its id."""


def read_confused(path: Path) -> Confused:
    """Read `confused.csv` as written by `stages.inference.metric_files.write_confused`.

    Raises:
        CorruptError: the file is not what it should be.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                (int(entry["truth"]), int(entry["prediction"])): (int(entry["pixels"]), read_cell(entry["image"]))
                for entry in csv.DictReader(file)
            }
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CorruptError(f"{path} is not a table of confusions ({error!r}): rerun Evaluate with --force") from error


def largest_confusions(counts: NDArray[np.int64], confused: Confused) -> list[str]:
    """Return the images of the confusions that take the largest share of a class's pixels, without repetition.

    Args:
        counts: confusion matrix, rows truth. Shape: (C, C).
        confused: of the same evaluation.
    """
    shares = _shares(counts)
    wrong = [pair for pair in confused if pair[0] != pair[1]]
    wrong.sort(key=lambda pair: (-shares[pair], pair))
    return list(dict.fromkeys(confused[pair][1] for pair in wrong[:SHOWN]))


def build_matrix(
    counts: NDArray[np.int64], rows: Sequence[ClassScores], confused: Confused, anchors: Mapping[str, str]
) -> dict[str, Any]:
    """Return the matrix for the page.

    Args:
        counts: confusion matrix, rows truth. Shape: (C, C).
        rows: the classes.
        confused: of the same evaluation.
        anchors: where on the page an image is drawn, by id.

    Returns:
        `classes` (rows in the order of the matrix), `hidden` (number of classes that occur and are not shown), and
        `lines`: for each class its `row` and `cells`, each with `share` and `tint` (of the colour) in percent,
        `right`, `title` ("" where there is no pixel) and `anchor` ("" without a picture).
    """
    shares = _shares(counts)
    shown = _choose_classes(counts, shares, rows)
    lines = [
        {"row": rows[truth], "cells": [_cell(truth, guess, shares, rows, confused, anchors) for guess in shown]}
        for truth in shown
    ]
    occurring = int(((counts.sum(0) + counts.sum(1)) > 0).sum())
    return {"classes": [rows[place] for place in shown], "hidden": occurring - len(shown), "lines": lines}


def _cell(
    truth: int,
    guess: int,
    shares: NDArray[np.float64],
    rows: Sequence[ClassScores],
    confused: Confused,
    anchors: Mapping[str, str],
) -> dict[str, Any]:
    share = float(shares[truth, guess])
    if (truth, guess) not in confused:
        return {"share": share, "tint": 0, "right": truth == guess, "title": "", "anchor": ""}
    pixels, image_id = confused[truth, guess]
    what = "right" if truth == guess else f"taken for {rows[guess].name}"
    return {
        "share": share,
        "tint": round(8 + 0.5 * share),  # a share near zero is visible, and text on the strongest readable
        "right": truth == guess,
        "title": f"{rows[truth].name} {what}: {share:.1f} % of its pixels, most in {image_id} ({pixels:,} pixels)",
        "anchor": anchors.get(image_id, ""),
    }


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each true class's pixels, in percent; 0 for a class without any. Shape: (C, C)."""
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(100.0 * counts, total, out=np.zeros(counts.shape), where=total > 0)


def _choose_classes(counts: NDArray[np.int64], shares: NDArray[np.float64], rows: Sequence[ClassScores]) -> list[int]:
    """Return places of the classes to show, seen ones first: all that occur, or the unseen and the most confused."""
    present = [place for place in range(len(rows)) if counts[place].any() or counts[:, place].any()]
    if len(present) > MOST_CLASSES:
        wrong = shares - np.diag(np.diagonal(shares))
        worst = np.maximum(wrong.max(axis=0), wrong.max(axis=1))
        present.sort(key=lambda place: (rows[place].group != "unseen", -worst[place], place))
        present = present[:MOST_CLASSES]
    return sorted(present, key=lambda place: (rows[place].group == "unseen", place))
