"""The report page: what it shows, that it loads nothing, and that no name can inject anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, meta

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.schema import Config
from split_matching.errors import CorruptError
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.context import StageContext
from split_matching.stages.inference.metric_files import write_confused, write_metrics
from split_matching.stages.inference.metrics import ConfusionMatrix
from split_matching.stages.pages.about import About, ReportContext
from split_matching.stages.pages.banners import list_banners
from split_matching.stages.pages.class_scores import read_class_scores
from split_matching.stages.pages.formats import UNDEFINED, read_template
from split_matching.stages.pages.report import run
from tests.stages.pages.handmade_run import (
    FULL,
    IDS,
    LOG,
    SIZE,
    SWEEP,
    FakeArtifact,
    FakeShards,
    Page,
    make_context,
    manifest,
    page_of,
)


def test_page_shows_the_headline_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    page = page_of(ctx)
    metrics = ctx.inputs["evaluate"].json("metrics.json")
    for name, key in (("pAcc", "pAcc"), ("mIoU seen", "mIoU_seen"), ("mIoU unseen", "mIoU_unseen"), ("hIoU", "hIoU")):
        assert f"{name} {metrics[key]:.1f} %" in page.text


def test_undefined_numbers_are_dashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    path = ctx.inputs["evaluate"].file("metrics.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "hIoU": None, "mIoU_unseen": None}))
    text = page_of(ctx).text
    assert f"hIoU {UNDEFINED} harmonic" in text
    assert "nan" not in text.lower().split()


NEIGHBOURS = ("../../../runs.html", "../../inspect/pseudo_masks.html")
"""Pages that a reader may follow links to."""


def test_page_loads_nothing_and_runs_its_own_script_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch, log=LOG, extra={"gamma_sweep": SWEEP})
    page = page_of(ctx)
    assert page.of("script") == [{}]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if tag == "a" and value in NEIGHBOURS:
                continue
            if name in ("src", "href", "srcset", "data", "action"):
                assert str(value).startswith(("data:", "#")), (tag, name, str(value)[:40])
    text = (ctx.out / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text
    policies = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    loads = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policies == [f"{loads}; script-src 'sha256-{digest}'"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of names without markup."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return page_of(make_context(tmp_path_factory.mktemp("plain"), monkeypatch))


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "</style><b>",
        "{{ 7 * 7 }}",
        "$\\frac{1}{0}$",
    ],
)
def test_hostile_class_names_are_only_text(
    name: str, plain: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = page_of(make_context(tmp_path, monkeypatch, names={1: name, 16: name + "2"}))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in hostile.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert " ".join(name.split()) in hostile.text


def test_equal_inputs_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for place in ("first", "second"):
        ctx = make_context(tmp_path / place, monkeypatch, log=LOG)
        run(ctx)
        pages.append((ctx.out / "report.html").read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("settings", "expected", "absent"),
    [
        ({"clip": {"weights": "random"}}, ["Plumbing only", "these numbers mean nothing"], ["Tuning run"]),
        (FULL, ["4 of 10,582 training images and 4 of 1,449 validation images"], ["Plumbing", "Embedded"]),
        ({"data": {"fold": 1}}, ["Tuning run. Fold 1 of 3"], ["Plumbing"]),
        ({"data": {"layout": "shapes"}}, ["Embedded data set"], ["Not the full data set"]),
        ({}, [], ["Not the full data set"]),
    ],
)
def test_banners(
    settings: dict[str, Any],
    expected: list[str],
    absent: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config.model_validate({"report": {"examples": 1, "worst": 0}, **settings})
    text = page_of(make_context(tmp_path, monkeypatch, config=config)).text
    assert all(phrase in text for phrase in expected)
    assert not any(phrase in text for phrase in absent)


@pytest.mark.parametrize("settings", [{}, {"data": {"layout": "shapes"}}, {"data": {"layout": "folder"}}])
def test_a_trial_says_so_where_no_published_split_does(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"report": {"examples": 0, "worst": 0}, **settings})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    whole = [banner["title"] for banner in list_banners(ctx, {}, 0)]
    ctx.inputs["dataset"].manifest["config"] = {"data": {"images": ["a", "b", "c"]}}
    assert [banner["title"] for banner in list_banners(ctx, {}, 0)] == [*whole, "Not the full data set"]
    assert "A trial on 3 images" in list_banners(ctx, {}, 0)[-1]["text"]


def test_a_fold_shows_only_the_classes_it_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"data": {"fold": 0}, "report": {"examples": 4}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    classes = load_shipped_classes("voc")
    kept = classes.seen()  # the masks still hold the truly unseen ids, which are no class here
    trained = [entry in classes.seen(0) for entry in kept]
    write_metrics(tmp_path / "evaluate", ConfusionMatrix(len(kept)), kept, trained)
    nothing = np.zeros((len(kept), len(kept)), np.int64)
    write_confused(tmp_path / "evaluate" / "confused.csv", nothing, nothing, IDS)
    arrays = {(image_id, "labels"): np.zeros(SIZE, np.uint8) for image_id in IDS}
    ctx.inputs["evaluate"]._shards = FakeShards(arrays)  # type: ignore[attr-defined]
    page = page_of(ctx)
    assert "seen 10 classes" in page.text
    assert "unseen 5 classes" in page.text
    assert "pottedplant" not in page.text


def test_the_head_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    made = {"commit": "0123456789abcdef-dirty", "command": "run_pipeline.py Report --name wide"}
    ctx.inputs["evaluate"].manifest.update(made)  # type: ignore[attr-defined]
    about = About("wide <b>", "larger clusters", 3, ("pseudo_masks.merge=0.7", "train.steps=300"))
    given = {field.name: getattr(ctx, field.name) for field in fields(ctx)}
    page = page_of(ReportContext(**given, about=about))
    head = page.text[: page.text.index("hIoU")]
    assert "wide <b>" in head and "larger clusters" in head and "Seed 3" in head
    assert "Key 5555555555555555" in head and "Commit 0123456789ab, with edits" in head
    assert "Command run_pipeline.py Report --name wide" in head
    assert "Differs in pseudo_masks.merge=0.7 train.steps=300" in head
    plain = page_of(ctx).text
    assert "Differs in nothing: the settings of the data set's config" in plain and "Seed" not in plain


def test_the_first_picture_comes_before_the_numbers_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch))
    order = [
        tag if tag == "img" else attrs["id"] for tag, attrs in page.tags if tag == "img" or attrs.get("id") == "classes"
    ]
    assert order.index("img") < order.index("classes")


def test_boundary_iou_is_shown_where_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    path = ctx.inputs["evaluate"].file("metrics.json")
    near = {"mIoU_seen": 31.25, "mIoU_unseen": 12.5, "hIoU": 17.857, "width": 0.02}
    path.write_text(json.dumps({**json.loads(path.read_text()), "boundary": near}))
    assert "Mean over seen classes 31.2 , over unseen classes 12.5 , harmonic mean 17.9" in page_of(ctx).text


def test_every_class_has_a_bar_and_absent_ones_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    page = page_of(ctx)
    rows = read_class_scores(ctx.inputs["evaluate"].file("per_class.csv"))
    bars = [attrs["title"] for attrs in page.of("div") if attrs.get("class") == "bar"]
    assert sorted(str(title).split(":")[0] for title in bars) == sorted(row.name for row in rows)
    missing = sum(math.isnan(row.iou) for row in rows)
    assert missing > 0
    classes = [attrs.get("class") for attrs in page.of("span")]
    assert classes.count("value absent") == missing
    assert classes.count("fill") >= len(rows) - missing


def test_groups_are_told_apart_in_words_and_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    page = page_of(ctx)
    assert "seen 15 classes" in page.text
    assert "unseen 5 classes" in page.text
    text = (ctx.out / "report.html").read_text(encoding="utf-8")
    assert ".unseen .fill { background-color: var(--unseen); background-image: var(--hatch); }" in text


def test_a_summary_that_only_counts_work_makes_no_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "quality_images": 0}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    ctx.inputs["pseudo_masks"].manifest["summary"] = {"images": 4, "shards": 1}  # type: ignore[index]
    assert not any(attrs.get("id") == "quality" for attrs in page_of(ctx).of("section"))


def test_provenance_names_stages_keys_times_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    text = page_of(ctx).text
    assert "ClusterPseudoMasks 3333333333333333 4.5 s 2025-06-01 10:03:00 UTC" in text
    assert "together 22.5 s" in text
    assert "regions per image 6.25" in text
    assert "torch 2.9" in text
    assert html.unescape(text).count('"gamma": 0.0') == 1


@pytest.mark.parametrize(
    "content", ["id,name\n1,cat\n", "id,name,group,iou,accuracy,truth_pixels,predicted_pixels\nx" * 2]
)
def test_broken_class_table_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "per_class.csv"
    path.write_text(content)
    with pytest.raises(CorruptError, match=r"per_class\.csv is not a table of classes"):
        read_class_scores(path)


def test_page_is_a_function_of_inputs_not_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    run(ctx)
    assert str(tmp_path) not in (ctx.out / "report.html").read_text(encoding="utf-8")


def test_inputs_that_are_only_provenance_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    more = FakeArtifact("regions", tmp_path / "regions", manifest("EmbedRegions", 6, summary={"named_right": 0.81}))
    inputs = {**ctx.inputs, "regions": more}
    ctx = StageContext(config=ctx.config, inputs=inputs, out=ctx.out, data_root=ctx.data_root)  # type: ignore[arg-type]
    text = page_of(ctx).text
    assert "EmbedRegions 6666666666666666" in text
    assert "named right 0.81" in text


def test_a_run_without_a_trained_decoder_has_a_report_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    inputs = {name: artifact for name, artifact in ctx.inputs.items() if name != "train"}
    page = page_of(replace(ctx, inputs=inputs))
    assert "TrainDecoder" not in page.text
    sections = {attrs.get("id") for attrs in page.of("section")}
    assert "training" not in sections and {"classes", "examples", "provenance"} <= sections


def test_slice_reads_are_enough_and_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    short = StageContext(
        config=SimpleNamespace(report=ctx.config.report), inputs=ctx.inputs, out=ctx.out, data_root=ctx.data_root
    )
    with pytest.raises(AttributeError):
        run(short)


def test_the_report_is_stale_when_a_template_of_it_changes() -> None:
    """Its code fingerprint holds the template and all that it includes, and no other page."""
    names, waiting = set(), ["report.html.j2"]
    while waiting:
        name = waiting.pop()
        names.add(name)
        included = meta.find_referenced_templates(Environment().parse(read_template(name)))
        waiting += [str(other) for other in included if other not in names]
    report = make_plan(Config.model_validate({"dataset": "shapes"})).stages["report"]
    scripts = {"report.js", "sortable.js"}
    assert (
        {path.name for path in report.files}
        == names | scripts
        == {"report.html.j2", "pictures.html.j2", "page.css", *scripts}
    )
    assert {f"stages/pages/templates/{name}" for name in names} <= report.code.keys()
