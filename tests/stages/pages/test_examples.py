"""Validation images of the report: which are chosen, and what is shown of each."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.configs.schema import Config
from split_matching.stages.pages.examples import choose_examples
from split_matching.stages.pages.report import run
from tests.stages.pages.handmade_run import alts, make_context, page_of


def test_examples_have_four_pictures_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 3, "worst": 0}})
    page = page_of(make_context(tmp_path, monkeypatch, config=config))
    shown = [alt for alt in alts(page) if " of img_" in alt]
    assert len(shown) == 4 * 4  # and one that is an example of a confusion
    assert [alt.split(" of ")[0] for alt in shown[:4]] == ["image", "pseudo mask", "truth", "prediction"]
    assert "3 regions" in page.text
    source = str(page.of("img")[0]["src"])
    kind, content = source.split(";base64,")
    assert kind in ("data:image/jpeg", "data:image/svg+xml")
    assert base64.b64decode(content, validate=True)


def test_no_examples_leaves_the_section_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"report": {"examples": 0}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    assert run(ctx)["examples"] == 0
    assert 'id="examples"' not in (ctx.out / "report.html").read_text(encoding="utf-8")


def test_chips_name_missed_and_invented_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    text = (page_of(ctx)).text
    # The right edge of every image is predicted as class 2, which is true nowhere but in the second image.
    assert "bicycle not in the truth" in text
    assert re.search(r"aeroplane 100", text)


def entries_of(*classes: list[int]) -> list[dict[str, Any]]:
    return [{"id": f"{index:02d}", "classes": members} for index, members in enumerate(classes)]


def test_chosen_examples_cover_every_unseen_class() -> None:
    images = entries_of(*([[1]] * 20), [8], [1], [9], [7, 1], *([[9]] * 10))
    chosen = choose_examples(images, [7, 8, 9], 4)
    shown = {c for entry in images if entry["id"] in chosen for c in entry["classes"]}
    assert {7, 8, 9} <= shown
    assert len(chosen) == 4


def test_chosen_examples_are_spread_sorted_and_do_not_depend_on_order() -> None:
    images = entries_of(*([[1]] * 50))
    chosen = choose_examples(images, [9], 6)
    assert chosen == sorted(chosen) == choose_examples(images[::-1], [9], 6)
    gaps = np.diff([int(image_id) for image_id in chosen])
    assert gaps.min() >= 5


def test_images_with_unseen_classes_come_first() -> None:
    images = entries_of([1], [9], [1], [9], [1], [9])
    assert choose_examples(images, [9], 3) == ["01", "03", "05"]
    assert choose_examples(images, [9], 99) == [entry["id"] for entry in images]
    assert choose_examples([], [9], 3) == []
