"""The confusion matrix of the report, and the tables to copy."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from split_matching.errors import CorruptError
from split_matching.stages.inference.metric_files import write_confused
from split_matching.stages.pages.class_scores import ClassScores
from split_matching.stages.pages.class_table import to_csv, to_json, to_latex
from split_matching.stages.pages.confusion import MOST_CLASSES, build_matrix, largest_confusions, read_confused

COUNTS = np.array([[60, 20, 20, 0], [0, 0, 0, 0], [0, 30, 10, 0], [0, 0, 0, 0]])
"""Of four classes: the second is predicted only, the last occurs nowhere."""


def make_rows(groups: list[str]) -> list[ClassScores]:
    return [ClassScores(n, f"c{n}", group, 0, 0, 0, 0, 0, "#000000") for n, group in enumerate(groups)]


def test_confusions_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_confused(tmp_path / "confused.csv", np.array([[5, 0], [3, 7]]), np.array([[0, 0], [1, 1]]), ["=a", "b"])
    assert read_confused(tmp_path / "confused.csv") == {(0, 0): (5, "=a"), (1, 0): (3, "b"), (1, 1): (7, "b")}
    (tmp_path / "confused.csv").write_text("truth,prediction,pixels,image\n0,x,1,a\n")
    with pytest.raises(CorruptError, match=r"confused\.csv is not a table of confusions"):
        read_confused(tmp_path / "confused.csv")


def test_cells_are_shares_of_the_truth_and_lead_to_images() -> None:
    rows = make_rows(["unseen", "seen", "seen", "seen"])
    confused = {(0, 0): (50, "a"), (0, 1): (20, "b"), (0, 2): (9, "a"), (2, 1): (30, "c"), (2, 2): (10, "c")}
    matrix = build_matrix(COUNTS, rows, confused, {"b": "image-1"})
    assert [row.name for row in matrix["classes"]] == ["c1", "c2", "c0"]  # seen ones first, absent ones left out
    assert matrix["hidden"] == 0
    shares = {line["row"].name: [cell["share"] for cell in line["cells"]] for line in matrix["lines"]}
    assert shares == {"c1": [0, 0, 0], "c2": [75.0, 25.0, 0], "c0": [20.0, 20.0, 60.0]}
    taken, other, right = matrix["lines"][2]["cells"]
    assert taken["title"] == "c0 taken for c1: 20.0 % of its pixels, most in b (20 pixels)"
    assert (taken["anchor"], other["anchor"], taken["right"], right["right"]) == ("image-1", "", False, True)
    assert matrix["lines"][0]["cells"][0]["title"] == ""


def test_images_of_the_largest_shares_come_first_and_once() -> None:
    confused = {(0, 0): (50, "a"), (0, 1): (20, "b"), (0, 2): (20, "c"), (2, 1): (30, "c"), (2, 2): (10, "d")}
    assert largest_confusions(COUNTS, confused) == ["c", "b"]  # 75 %, then 20 % twice


def test_of_many_classes_the_unseen_and_the_most_confused_are_shown() -> None:
    number = MOST_CLASSES + 5
    counts = np.diag(np.full(number, 100))
    counts[3, 4] = 50
    groups = ["seen"] * number
    groups[number - 1] = "unseen"
    matrix = build_matrix(counts, make_rows(groups), {}, {})
    names = [row.name for row in matrix["classes"]]
    assert len(names) == MOST_CLASSES and matrix["hidden"] == 5
    assert {"c3", "c4"} < set(names) and names[-1] == f"c{number - 1}"


def test_tables_to_copy_say_the_same() -> None:
    rows = [
        ClassScores(1, "a_b, 50 %", "seen", 12.3456, 99.0, 7.5, 1000, 900, "#000000"),
        ClassScores(2, "=x", "unseen", math.nan, math.nan, math.nan, 0, 0, "#000000"),
    ]
    first, second = csv.DictReader(io.StringIO(to_csv(rows)))
    assert first["name"] == "a_b, 50 %" and first["iou"] == "12.3456" and first["boundary_iou"] == "7.5"
    assert second["name"] == "'=x" and second["iou"] == ""
    parsed = json.loads(to_json(rows))
    assert parsed[0]["truth_pixels"] == 1000 and parsed[1] == {
        **{"id": 2, "name": "=x", "group": "unseen", "truth_pixels": 0, "predicted_pixels": 0},
        **{"iou": None, "accuracy": None, "boundary_iou": None},
    }
    assert r"a\_b, 50 \% & seen & 12.3 & 99.0 & 7.5 \\" in to_latex(rows).splitlines()
    assert r"=x & unseen & - & - & - \\" in to_latex(rows).splitlines()
