"""Files with metrics: percent, null where undefined, groups, and the same bytes for the same numbers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from split_matching.configs.class_list import ClassEntry
from split_matching.stages.inference.metric_files import write_confused, write_metrics, write_per_image
from split_matching.stages.inference.metrics import ConfusionMatrix
from split_matching.stages.pages.class_scores import read_class_scores

IGNORE = 255


def class_entries(*names: str) -> list[ClassEntry]:
    return [ClassEntry(id=index + 1, name=name) for index, name in enumerate(names)]


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_hold_percent_null_and_groups(tmp_path: Path) -> None:
    confusion = ConfusionMatrix(4)
    confusion.update(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 2]], np.uint8), IGNORE)
    names = class_entries("cat", 'a, "b"', "absent", "left out")
    result = write_metrics(
        tmp_path,
        confusion,
        names,
        [True, False, False, False],
        {"gamma": np.float32(0.5), "sweep": [{"hIoU": math.nan}], "title": "grün"},
        boundary=np.array([0.25, 0.5, math.nan, 0.125]),
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["mIoU_seen"] == pytest.approx(50.0) == 100 * result.miou_seen
    assert metrics["hIoU"] == 100 * result.hiou
    assert (metrics["images"], metrics["pixels"]) == (1, 3)
    assert metrics["extra"] == {"gamma": 0.5, "sweep": [{"hIoU": None}], "title": "grün"}
    assert "grün" in (tmp_path / "metrics.json").read_text(encoding="utf-8"), "as it is, not escaped"
    with (tmp_path / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["id", "name", "group", "iou", "accuracy", "boundary_iou", "truth_pixels", "predicted_pixels"]
    assert list(rows[0]) == columns
    assert [row["boundary_iou"] for row in rows] == ["25.0000", "50.0000", "nan", "12.5000"]
    near = {"mIoU_seen": 25.0, "mIoU_unseen": 31.25, "hIoU": pytest.approx(2 * 25 * 31.25 / 56.25), "width": 0.02}
    assert metrics["boundary"] == near
    assert [row["name"] for row in rows] == [entry.name for entry in names]
    assert [row["group"] for row in rows] == ["seen", "unseen", "unseen", "unseen"]
    assert [row["iou"] for row in rows] == ["50.0000", "50.0000", "nan", "nan"]
    assert [row["accuracy"] for row in rows] == ["50.0000", "100.0000", "nan", "nan"]
    assert (rows[0]["truth_pixels"], rows[1]["predicted_pixels"]) == ("2", "2")
    np.testing.assert_array_equal(np.load(tmp_path / "confusion.npy", allow_pickle=False), confusion.counts)


def test_the_image_with_most_of_a_confusion_is_named(tmp_path: Path) -> None:
    where = np.array([[0, 1], [0, 2]])
    write_confused(tmp_path / "confused.csv", np.array([[5, 2], [0, 7]]), where, ["a", "b", "=c"])
    lines = (tmp_path / "confused.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["truth,prediction,pixels,image", "0,0,5,a", "0,1,2,b", "1,1,7,'=c"]


def test_names_that_begin_like_formulas_are_text_to_spreadsheets(tmp_path: Path) -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0, 1], np.uint8), np.array([0, 1], np.uint8), IGNORE)
    write_metrics(tmp_path, confusion, class_entries("=1+1", "cat"), [True, False])
    lines = (tmp_path / "per_class.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[1] for line in lines] == ["name", "'=1+1", "cat"]
    assert [row.name for row in read_class_scores(tmp_path / "per_class.csv")] == ["=1+1", "cat"]
    write_per_image(tmp_path / "per_image.csv", [("-a", 0.5, 0.25)])
    assert (tmp_path / "per_image.csv").read_text(encoding="utf-8") == "id,pAcc,mIoU\n'-a,50.0000,25.0000\n"


def test_undefined_means_are_null_in_json(tmp_path: Path) -> None:
    confusion = ConfusionMatrix(1)
    confusion.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), IGNORE)
    write_metrics(tmp_path, confusion, class_entries("cat"), [True])
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["mIoU_unseen"] is None
    assert metrics["hIoU"] is None


def test_equal_inputs_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        confusion = ConfusionMatrix(2)
        confusion.update(np.array([0, 1], np.uint8), np.array([1, 1], np.uint8), IGNORE)
        (tmp_path / name).mkdir()
        write_metrics(tmp_path / name, confusion, class_entries("cat", "dog"), [True, False])
    assert written(tmp_path / "first") == written(tmp_path / "second")


def test_number_of_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 class names for a confusion matrix of 3 classes"):
        write_metrics(tmp_path, ConfusionMatrix(3), class_entries("cat", "dog"), [True, True, False])


def test_metrics_of_images_are_in_percent(tmp_path: Path) -> None:
    write_per_image(tmp_path / "per_image.csv", [("a", 0.5, 0.25), ("b", 1 / 3, math.nan)])
    assert (tmp_path / "per_image.csv").read_text() == "id,pAcc,mIoU\na,50.0000,25.0000\nb,33.3333,nan\n"
