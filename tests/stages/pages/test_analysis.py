"""The closer look of the report: published results, confusion, worst images, costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.configs.schema import Config
from split_matching.stages.pages.analysis import compare_with_published, find_worst_images, list_confusions
from split_matching.stages.pages.class_scores import ClassScores
from tests.stages.pages.handmade_run import FULL, alts, make_context, page_of


def test_published_rows_stand_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "worst": 0}, **FULL})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    page = page_of(ctx)
    own = ctx.inputs["evaluate"].json("metrics.json")
    assert "ZegCLIP CVPR 2023 94.6 91.9 77.8 84.3 read" in page.text
    assert "DeOP ICCV 2023 \N{EN DASH} 88.2 74.6 80.8 read" in page.text
    assert "OTSeg ECCV 2024 \N{EN DASH} \N{EN DASH} \N{EN DASH} 84.5 second hand" in page.text
    assert f"this run {own['pAcc']:.1f} {own['mIoU_seen']:.1f}" in page.text
    assert "does not compare: see the banner" in page.text  # four images are not the data set
    unchecked = compare_with_published(make_context(tmp_path / "unchecked", monkeypatch), own, False)
    assert "not checked" in unchecked["rows"][-1]["note"]


def test_runs_on_shapes_stand_beside_our_own_reference_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"classes": "shapes", "layout": "shapes"}
    config = Config.model_validate({"dataset": "shapes", "report": {"examples": 0, "worst": 0}, "data": data})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    page = page_of(ctx)
    assert "Beside reference runs" in page.text and "Beside published results" not in page.text
    found = compare_with_published(ctx, ctx.inputs["evaluate"].json("metrics.json"), True)
    assert {row["source"] for row in found["rows"]} == {"measured"}
    assert found["rows"][-1]["own"] and found["rows"][-1]["note"] == ""


@pytest.mark.parametrize("settings", [{"data": {"fold": 1}}, {"data": {"fold": 1, "classes": "shapes"}}])
def test_no_published_rows_where_they_do_not_compare(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"report": {"examples": 1, "worst": 0}, **settings})
    assert compare_with_published(make_context(tmp_path, monkeypatch, config=config), {}, False) is None


def test_published_files_are_those_of_the_protocol() -> None:
    """hIoU follows from the means, so a slip of a digit in any row is found."""
    from split_matching.configs.published_results import load_published

    assert [row.method for row in load_published("voc")] == [row.method for row in load_published("coco_stuff")]
    for name in ("voc", "coco_stuff", "pascal_context", "shapes"):
        rows = load_published(name)
        assert len({(row.method, row.venue) for row in rows}) == len(rows) and all(row.hIoU for row in rows)
        for row in (row for row in rows if row.mIoU_seen):
            harmonic = 2 * row.mIoU_seen * row.mIoU_unseen / (row.mIoU_seen + row.mIoU_unseen)
            # of several runs it is the mean of theirs, which is less than that of the means
            assert row.hIoU == pytest.approx(harmonic, abs=0.5 if row.source == "measured" else 0.16), row
    assert {row.method: row.source for row in load_published("voc")} == {
        "ZegFormer": "read",
        "zsseg": "read",
        "DeOP": "read",
        "ZegCLIP": "read",
        "CLIP-RC": "read",
        "Cascade-CLIP": "read",
        "TagCLIP": "recalled",
        "OTSeg": "second hand",
        "OTSeg+": "second hand",
        "OC-ZSS": "second hand",
    }
    assert load_published("no such list") == () and load_published("../voc") == load_published("voc")


def test_unseen_classes_are_followed_to_what_they_are_taken_for() -> None:
    groups = ("seen", "unseen", "seen", "unseen", "unseen")
    rows = [ClassScores(n, f"c{n}", group, 0, 0, 0, 0, 0, "#000000") for n, group in enumerate(groups)]
    counts = np.array([[5, 5, 0, 0, 0], [60, 20, 0, 15, 5], [0, 0, 9, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 7]])
    first, second = list_confusions(counts, rows)
    assert first["row"].name == "c1" and first["right"] == 20
    assert [(other["row"].name, other["share"]) for other in first["others"]] == [("c0", 60), ("c3", 15), ("c4", 5)]
    assert second["right"] == 100 and second["others"] == [] and first["rest"] == 0


def test_worst_images_come_first_and_have_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "worst": 2}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    assert find_worst_images(ctx.inputs["evaluate"].file("per_image.csv"), 2) == [("img_0", 10.0), ("img_1", 20.0)]
    page = page_of(ctx)
    assert "img_0 · mean IoU 10.0" in page.text and "img_1 · mean IoU 20.0" in page.text
    shown = [alt for alt in alts(page) if alt.startswith("prediction")]  # after those of the largest confusions
    assert shown[-2:] == ["prediction of img_0", "prediction of img_1"]


def test_worst_images_are_spread_over_videos(tmp_path: Path) -> None:
    """Three videos of ten frames each; the worst ten frames are all of the second, side by side."""
    iou = {f"{video}_{frame:02d}": 50 + frame for video in "ac" for frame in range(10)}
    iou |= {f"b_{frame:02d}": 10 + frame for frame in range(10)}
    path = tmp_path / "per_image.csv"
    path.write_text("id,mIoU\n" + "".join(f"{name},{value}\n" for name, value in iou.items()) + "void,nan\n")
    worst = find_worst_images(path, 3)
    assert worst[0] == ("b_00", 10.0)
    places = [sorted(iou).index(name) for name, _ in worst]
    assert min(abs(a - b) for a in places for b in places if a != b) == 5
    assert [name for name, _ in find_worst_images(path, 30)] == sorted(iou, key=lambda name: (iou[name], name))
    assert len(find_worst_images(path, 16)) == 16 and find_worst_images(path, 0) == []


def test_size_and_work_are_shown_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {
        "side": 512,
        "trained_parameters": 1234567,
        "frozen_image_parameters": 5,
        "frozen_text_parameters": 6,
        "tower_flops": 123_456_789_012,
        "decoder_flops": 7,
        "crop_flops": 8,
    }
    page = page_of(make_context(tmp_path, monkeypatch, extra={"complexity": counted}))
    assert "Trained parameters (decoder and prompts) 1,234,567" in page.text
    assert "Image tower for 512 x 512 pixels 123.457 GFLOPs (123,456,789,012)" in page.text
