"""How well pseudo masks cover unseen objects: right numbers, known to the report alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from split_matching.configs.schema import Config
from split_matching.stages.pages.mask_quality import find_best_ious
from tests.stages.pages.handmade_run import make_context, page_of


def test_best_iou_is_that_of_the_best_region() -> None:
    labels = np.array([[3, 3, 3, 9], [3, 7, 7, 9]])
    regions = np.array([[1, 1, 2, 0], [1, 2, 2, 0]])
    assert find_best_ious(labels, regions, [3, 7, 9, 4]) == {3: 3 / 4, 7: 2 / 3, 9: 0.0}
    assert find_best_ious(labels, np.zeros_like(regions), [3]) == {3: 0.0}


def test_mask_quality_is_measured_on_unseen_classes_of_training_images(tmp_path, monkeypatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch))
    # the unseen class of each image covers columns 20 to 36 of its upper two thirds; region 2 the last sixth of columns
    assert "unseen class images best IoU found pottedplant 1" in page.text
    assert "Looked up in the truth of 4 training images (of 4, evenly spread)" in page.text
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "quality_images": 0}})
    assert "Looked up" not in page_of(make_context(tmp_path / "without", monkeypatch, config=config)).text


def test_mask_quality_is_known_to_the_report_alone() -> None:
    """Nothing may flow back from labels of unseen classes in training images."""
    root = Path(__file__).parents[3]
    users = {
        path.relative_to(root).as_posix()
        for room in ("cache", "configs", "model", "pipeline", "stages", "benchmarks")
        for path in (root / room).rglob("*.py")
        if "mask_quality" in path.read_text(encoding="utf-8") and path.name != "mask_quality.py"
    }
    assert users == {"stages/pages/report.py"}
    importers = {
        path.relative_to(root).as_posix()
        for room in ("model", "stages")
        for path in (root / room).rglob("*.py")
        if "pages.report import" in path.read_text(encoding="utf-8")
    }
    assert not importers  # it is a stage: nothing is built on it
