"""The report page: what it shows, that it loads nothing, and that no name can inject anything."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import ClassEntry, ClassList, load_classes
from split_matching.configs.schema import Config
from split_matching.configs.slices import build_slice
from split_matching.errors import CorruptError
from split_matching.stages.ground.context import StageContext
from split_matching.stages.inference.metrics import ConfusionMatrix, image_scores, write_metrics, write_per_image
from split_matching.stages.pages.class_rows import ClassRow, read_per_class
from split_matching.stages.pages.mask_quality import best_ious
from split_matching.stages.pages.report import (
    UNDEFINED,
    _banners,
    choose_examples,
    format_duration,
    format_number,
    format_percent,
    read_log,
    run,
)
from split_matching.stages.pages.report_analysis import published, unseen_confusion, worst_images

READS = ("report", "pseudo_masks", "data", "clip.weights", "classes.published")
IDS = ("img_0", "img_1", "img_2", "img_3")
SIZE = (24, 36)


class FakeShards:
    """Arrays by (image id, field)."""

    def __init__(self, arrays: Mapping[tuple[str, str], np.ndarray]) -> None:
        self._arrays = arrays

    fields = ("dense",)

    def read(self, image_id: str, field: str) -> np.ndarray:
        return self._arrays[image_id, field]


class FakeArtifact:
    """The face of `cache.store.Artifact` that the report uses."""

    def __init__(self, slug: str, path: Path, manifest: dict[str, Any], shards: FakeShards | None = None) -> None:
        self.slug, self.path, self.manifest, self._shards = slug, path, manifest, shards
        self.key = manifest["key"]
        path.mkdir(parents=True, exist_ok=True)

    def file(self, name: str) -> Path:
        return self.path / name

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def shards(self, split: str) -> FakeShards:
        assert split == ("train" if self.slug == "pseudo_masks" else "val")
        assert self._shards is not None
        return self._shards


def manifest(stage: str, number: int, **more: Any) -> dict[str, Any]:
    created = f"2025-06-01T10:0{number}:00Z"
    return {"stage": stage, "key": f"{number}" * 64, "seconds": 1.5 * number, "created": created, **more}


def truth_of(place: int, classes: ClassList) -> np.ndarray:
    """Raw ids: a class on the left, another on the right, void between, background below."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:16, :16] = classes.ids[place]
    mask[:16, 20:] = classes.unseen_entries[place].id
    mask[:16, 16:20] = 255
    return mask


def write_data(root: Path, classes: ClassList) -> None:
    """Write a small VOC tree."""
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place, image_id in enumerate(IDS):
        pixels = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(voc / "JPEGImages" / f"{image_id}.jpg")
        Image.fromarray(truth_of(place, classes)).save(voc / "SegmentationClassAug" / f"{image_id}.png")
    for split in ("trainaug", "val"):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(IDS) + "\n")


LOG = [
    {"step": step, "loss": 9 - step / 20, "lr": 1e-4, "grad_norm": 1.0, "seen_class": 2.0, "candidate_cosine": 0.5}
    for step in range(0, 100, 20)
]

MATCHING = [
    {"step": step, "images": 2, "seen_score": 0.5, "seen_iou": step / 100, "seen_queries": [2, 1, 0]}
    | {"candidate_score": 0.4, "candidate_iou": 0.3, "candidate_queries": [0, 2]}
    for step in range(0, 100, 20)
]


def make_context(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    config: Config | None = None,
    names: Mapping[int, str] | None = None,
    log: list[dict[str, Any]] | None = None,
    extra: dict[str, Any] | None = None,
) -> StageContext:
    """Make every upstream artifact of a tiny run on the VOC class list."""
    config = config or Config.model_validate({"dataset": "voc", "report": {"examples": 3, "worst": 1}})
    classes = load_classes(config.data.classes)
    write_data(tmp_path / "data", classes)
    entries = [ClassEntry(e.id, (names or {}).get(e.id, e.name)) for e in classes.entries]
    confusion = ConfusionMatrix(len(entries))
    predictions = {}
    for place, image_id in enumerate(IDS):
        raw = truth_of(place, classes)
        table = np.full(256, 255, np.uint8)
        table[list(classes.ids)] = np.arange(len(entries))
        truth = table[raw]
        labels = np.where(truth == 255, 0, truth).astype(np.uint8)
        labels[:, 30:] = 1
        confusion.update(truth, labels, 255)
        predictions[image_id, "labels"] = labels
    # one region covers the left half of every image, another a strip at the right
    halves = np.array([[1, 1, 1, 0, 0, 2]] * 4, np.uint8)
    regions = {(image_id, "labels"): halves for image_id in IDS}
    dense = {(image_id, "dense"): np.ones((4, 6, 8), np.float16) for image_id in IDS}
    images = [
        {"id": image_id, "labels_sha256": "0", "classes": [classes.ids[n], classes.unseen_entries[n].id]}
        for n, image_id in enumerate(IDS)
    ]
    inputs = {
        "dataset": FakeArtifact("dataset", tmp_path / "dataset", manifest("PrepareDataset", 1)),
        "features": FakeArtifact("features", tmp_path / "features", manifest("ExtractFeatures", 2), FakeShards(dense)),
        "pseudo_masks": FakeArtifact(
            "pseudo_masks",
            tmp_path / "masks",
            manifest("ClusterPseudoMasks", 3, summary={"regions_per_image": 6.25}),
            FakeShards(regions),
        ),
        "train": FakeArtifact(
            "train", tmp_path / "train", manifest("TrainDecoder", 4, versions={"numpy": "2.0", "torch": "2.9"})
        ),
        "evaluate": FakeArtifact(
            "evaluate",
            tmp_path / "evaluate",
            manifest("Evaluate", 5, config={"evaluate": {"gamma": 0.0}}),
            FakeShards(predictions),
        ),
    }
    for split in ("train", "val"):
        (tmp_path / "dataset" / f"{split}.json").write_text(json.dumps({"images": images}))
    lines = [json.dumps(record) + "\n" for record in (LOG if log is None else log)]
    (tmp_path / "train" / "metrics.jsonl").write_text("".join(lines))
    (tmp_path / "train" / "matching.jsonl").write_text("".join(json.dumps(record) + "\n" for record in MATCHING))
    seen = [entry.id not in classes.unseen_ids for entry in entries]
    write_metrics(tmp_path / "evaluate", confusion, entries, seen, extra)
    ious = [(image_id, 0.5, 0.1 * (place + 1)) for place, image_id in enumerate(IDS)]
    write_per_image(tmp_path / "evaluate" / "per_image.csv", [*ious, ("without labels", math.nan, math.nan)])
    fake = ModuleType("split_matching.stages.candidates.pseudo_masks")
    fake.cluster = lambda dense, config: np.array([[1, 1, 2], [0, 3, 3]], np.uint8)  # type: ignore[attr-defined]
    fake.clustered_field = lambda fields, config: "dense"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "split_matching.stages.candidates.pseudo_masks", fake)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return StageContext(
        config=build_slice(config, READS),
        inputs=inputs,  # type: ignore[arg-type]
        out=out,
        data_root=tmp_path / "data",
    )


class Page(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.ids: dict[str, str] = {}
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "style" or "{" not in data:
            self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(ctx: StageContext) -> Page:
    run(ctx)
    return Page((ctx.out / "report.html").read_text(encoding="utf-8"))


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


def test_page_loads_nothing_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch, extra={"gamma_sweep": SWEEP})
    page = page_of(ctx)
    assert not page.of("script")
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data", "action"):
                assert str(value).startswith(("data:", "#")), (tag, name, str(value)[:40])
    text = (ctx.out / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text
    policies = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


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
def test_hostile_class_names_are_only_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = page_of(make_context(tmp_path / "plain", monkeypatch))
    hostile = page_of(make_context(tmp_path / "hostile", monkeypatch, names={1: name, 16: name + "2"}))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in hostile.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert " ".join(name.split()) in hostile.text


def test_equal_inputs_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for place in ("first", "second"):
        ctx = make_context(tmp_path / place, monkeypatch)
        run(ctx)
        pages.append((ctx.out / "report.html").read_bytes())
    assert pages[0] == pages[1]


FULL = {"data": {"expected_train": 10582, "expected_val": 1449}}


@pytest.mark.parametrize(
    ("settings", "expected", "absent"),
    [
        ({"clip": {"weights": "random"}}, ["Plumbing only", "numbers on this page mean nothing"], ["Tuning run"]),
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
    whole = [banner["title"] for banner in _banners(ctx, [])]
    ctx.inputs["dataset"].manifest["config"] = {"data": {"images": ["a", "b", "c"]}}
    assert [banner["title"] for banner in _banners(ctx, [])] == [*whole, "Not the full data set"]
    assert "A trial on 3 images" in _banners(ctx, [])[-1]["text"]


def test_a_fold_shows_only_the_classes_it_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"data": {"fold": 0}, "report": {"examples": 4}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    classes = load_classes("voc")
    kept = classes.seen()  # the masks still hold the truly unseen ids, which are no class here
    trained = [entry in classes.seen(0) for entry in kept]
    write_metrics(tmp_path / "evaluate", ConfusionMatrix(len(kept)), kept, trained)
    arrays = {(image_id, "labels"): np.zeros(SIZE, np.uint8) for image_id in IDS}
    ctx.inputs["evaluate"]._shards = FakeShards(arrays)  # type: ignore[attr-defined]
    page = page_of(ctx)
    assert "seen 10 classes" in page.text
    assert "unseen 5 classes" in page.text
    assert "pottedplant" not in page.text


def test_every_class_has_a_bar_and_absent_ones_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    page = page_of(ctx)
    rows = read_per_class(ctx.inputs["evaluate"].file("per_class.csv"))
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


def alts(page: Page) -> list[str]:
    return [str(attrs["alt"]) for attrs in page.of("img")]


def test_curves_show_what_the_log_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path / "split", monkeypatch))
    assert "Candidate group over training steps: cosine" in alts(page)
    single = [{key: value for key, value in line.items() if not key.startswith("candidate")} for line in LOG]
    page = page_of(make_context(tmp_path / "single", monkeypatch, log=single))
    assert "Seen group over training steps: class" in alts(page)
    assert not any(alt.startswith("Candidate") for alt in alts(page))


def test_an_empty_log_leaves_the_section_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch, log=[]))
    assert not any(attrs.get("id") == "training" for attrs in page.of("section"))


SWEEP = [
    {"gamma": 0.1, "mIoU_seen": 70.0, "mIoU_unseen": 51.25, "hIoU": 59.2},
    {"gamma": 0.0, "mIoU_seen": 72.0, "mIoU_unseen": None, "hIoU": None},
]


def test_calibration_sweep_is_sorted_and_undefined_is_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch, extra={"gamma": 0.1, "gamma_sweep": SWEEP}))
    table = f"gamma mIoU seen mIoU unseen hIoU 0 72.0 {UNDEFINED} {UNDEFINED} this run · 0.1 70.0 51.2 59.2"
    assert table in page.text


def test_one_gamma_is_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(make_context(tmp_path, monkeypatch, extra={"gamma": 0.0, "gamma_sweep": SWEEP[:1]}))
    assert not any(attrs.get("id") == "calibration" for attrs in page.of("section"))


def test_a_summary_that_only_counts_work_makes_no_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "quality_images": 0}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    ctx.inputs["pseudo_masks"].manifest["summary"] = {"images": 4, "shards": 1}  # type: ignore[index]
    assert not any(attrs.get("id") == "quality" for attrs in page_of(ctx).of("section"))


def test_examples_have_four_pictures_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 3, "worst": 0}})
    page = page_of(make_context(tmp_path, monkeypatch, config=config))
    shown = [alt for alt in alts(page) if " of img_" in alt]
    assert len(shown) == 3 * 4
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


def test_provenance_names_stages_keys_times_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    text = page_of(ctx).text
    assert "ClusterPseudoMasks 3333333333333333 4.5 s 2025-06-01 10:03:00 UTC" in text
    assert "together 22.5 s" in text
    assert "regions per image 6.25" in text
    assert "torch 2.9" in text
    assert html.unescape(text).count('"gamma": 0.0') == 1


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "x"}'])
def test_broken_log_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n' + line + "\n")
    with pytest.raises(CorruptError, match=r"metrics\.jsonl line 3 is not"):
        read_log(path)


@pytest.mark.parametrize(
    "content", ["id,name\n1,cat\n", "id,name,group,iou,accuracy,truth_pixels,predicted_pixels\nx" * 2]
)
def test_broken_class_table_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "per_class.csv"
    path.write_text(content)
    with pytest.raises(CorruptError, match=r"per_class\.csv is not a table of classes"):
        read_per_class(path)


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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (3.0, "3"),
        (None, UNDEFINED),
        (math.nan, UNDEFINED),
        ("x", "x"),
        (12345.6, "12,345.6"),
    ],
)
def test_format_number(value: Any, expected: str) -> None:
    assert format_number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.123, "0.12 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7380, "2 h 03 min"),
        (None, UNDEFINED),
    ],
)
def test_format_duration(seconds: float | None, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_format_percent() -> None:
    assert [format_percent(value) for value in (None, math.nan, 0.0, 99.96)] == [UNDEFINED, UNDEFINED, "0.0", "100.0"]


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


def test_slice_reads_are_enough_and_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, monkeypatch)
    short = StageContext(
        config=SimpleNamespace(report=ctx.config.report), inputs=ctx.inputs, out=ctx.out, data_root=ctx.data_root
    )
    with pytest.raises(AttributeError):
        run(short)


# ---- the closer look ----


def test_published_rows_stand_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "worst": 0}, **FULL})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    page = page_of(ctx)
    own = ctx.inputs["evaluate"].json("metrics.json")
    assert "ZegCLIP CVPR 2023 94.6 91.9 77.8 84.3 read" in page.text
    assert "DeOP ICCV 2023 \N{EN DASH} 88.2 74.6 80.8 recalled" in page.text
    assert f"this run {own['pAcc']:.1f} {own['mIoU_seen']:.1f}" in page.text
    assert "does not compare: see the banner" in page.text  # four images are not the data set
    unchecked = published(make_context(tmp_path / "unchecked", monkeypatch), own, False)
    assert "not checked" in unchecked["rows"][-1]["note"]


def test_runs_on_shapes_stand_beside_our_own_reference_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"classes": "shapes", "layout": "shapes"}
    config = Config.model_validate({"dataset": "shapes", "report": {"examples": 0, "worst": 0}, "data": data})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    page = page_of(ctx)
    assert "Beside reference runs" in page.text and "Beside published results" not in page.text
    found = published(ctx, ctx.inputs["evaluate"].json("metrics.json"), True)
    assert {row["source"] for row in found["rows"]} == {"measured"}
    assert found["rows"][-1]["own"] and found["rows"][-1]["note"] == ""


@pytest.mark.parametrize("settings", [{"data": {"fold": 1}}, {"data": {"fold": 1, "classes": "shapes"}}])
def test_no_published_rows_where_they_do_not_compare(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"report": {"examples": 1, "worst": 0}, **settings})
    assert published(make_context(tmp_path, monkeypatch, config=config), {}, False) is None


def test_published_files_are_those_of_the_protocol() -> None:
    """hIoU follows from the means, so a slip of a digit in any row is found."""
    from split_matching.configs.published_results import load_published

    assert [row.method for row in load_published("voc")] == [row.method for row in load_published("coco_stuff")]
    for name in ("voc", "coco_stuff", "shapes"):
        for row in load_published(name):
            harmonic = 2 * row.mIoU_seen * row.mIoU_unseen / (row.mIoU_seen + row.mIoU_unseen)
            assert row.hIoU == pytest.approx(harmonic, abs=0.16), row
    assert {row.method: row.source for row in load_published("voc")} == {
        "ZegFormer": "recalled",
        "zsseg": "recalled",
        "DeOP": "recalled",
        "ZegCLIP": "read",
        "CLIP-RC": "read",
        "Cascade-CLIP": "read",
        "TagCLIP": "recalled",
    }
    assert load_published("no such list") == () and load_published("../voc") == load_published("voc")


def test_unseen_classes_are_followed_to_what_they_are_taken_for() -> None:
    groups = ("seen", "unseen", "seen", "unseen", "unseen")
    rows = [ClassRow(n, f"c{n}", group, 0, 0, 0, 0, "#000000") for n, group in enumerate(groups)]
    counts = np.array([[5, 5, 0, 0, 0], [60, 20, 0, 15, 5], [0, 0, 9, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 7]])
    first, second = unseen_confusion(counts, rows)
    assert first["row"].name == "c1" and first["right"] == 20
    assert [(other["row"].name, other["share"]) for other in first["others"]] == [("c0", 60), ("c3", 15), ("c4", 5)]
    assert second["right"] == 100 and second["others"] == [] and first["rest"] == 0


def test_worst_images_come_first_and_have_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"dataset": "voc", "report": {"examples": 0, "worst": 2}})
    ctx = make_context(tmp_path, monkeypatch, config=config)
    assert worst_images(ctx.inputs["evaluate"].file("per_image.csv"), 2) == [("img_0", 10.0), ("img_1", 20.0)]
    page = page_of(ctx)
    assert "img_0 · mean IoU 10.0" in page.text and "img_1 · mean IoU 20.0" in page.text
    assert [alt for alt in alts(page) if alt.startswith("prediction")] == ["prediction of img_0", "prediction of img_1"]


def test_image_scores_are_of_the_classes_that_the_truth_shows() -> None:
    counts = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])  # class 2 occurs nowhere
    accuracy, iou = image_scores(counts)
    assert accuracy == 10 / 12 and iou == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert image_scores(np.array([[0, 3], [0, 0]]))[1] == 0  # class 1 is wrong, but not in the truth
    assert all(math.isnan(value) for value in image_scores(np.zeros((2, 2), np.int64)))


def test_best_iou_is_that_of_the_best_region() -> None:
    labels = np.array([[3, 3, 3, 9], [3, 7, 7, 9]])
    regions = np.array([[1, 1, 2, 0], [1, 2, 2, 0]])
    assert best_ious(labels, regions, [3, 7, 9, 4]) == {3: 3 / 4, 7: 2 / 3, 9: 0.0}
    assert best_ious(labels, np.zeros_like(regions), [3]) == {3: 0.0}


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
    assert users == {"stages/pages/report_analysis.py", "stages/pages/report.py"}
    importers = [
        path.name for path in (root / "stages").rglob("*.py") if "report_analysis" in path.read_text(encoding="utf-8")
    ]
    assert importers == ["report.py"]


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
