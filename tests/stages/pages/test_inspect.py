"""What `inspect` shows of a finished run, through the real command line."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from split_matching.cache import code as code_module
from split_matching.cache.shard_reader import ShardReader
from split_matching.pipeline.cli import main
from split_matching.stages.pages.class_scores import read_class_scores
from split_matching.stages.pages.colours import hex_colours
from split_matching.stages.pages.gallery import render_gallery
from split_matching.stages.pages.gallery_image import GalleryImage, RegionTable
from split_matching.stages.pages.overlays import NO_LABEL
from split_matching.stages.pages.sheets import prediction_sheet
from split_matching.stages.pages.sheets.sheet import PANEL_SIDE
from tests.conftest import VocTree, blocks
from tests.pipeline.test_command_line import TINY

UNSEEN = ("pottedplant", "sheep", "sofa", "tvmonitor")
KINDS = ("pseudo_masks", "regions", "features", "matches", "predictions")
Inspect = Callable[..., int]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that name a finished run on four training and two validation images."""
    folder = tmp_path_factory.mktemp("inspect")
    tree = VocTree(folder / "data")
    train = {f"t{i:03d}": blocks(0, 1 + i, 16 + i, 255) for i in range(4)}
    val = {"v0": blocks(0, 1, 17), "v1": blocks(2, 16)}
    for name, masks in (("trainaug", train), ("val", val)):
        tree.write_list(name, list(masks))
        for image_id, mask in masks.items():
            tree.write_image(image_id, (mask.shape[0], mask.shape[1]))
            tree.write_mask(image_id, mask)
    settings = [*TINY, "features.size=64", "pseudo_masks.merge=0.999", f"data.root={tree.root}"]
    given = ["--dataset", "voc_cached", "--artifacts", str(folder / "cache"), "--set", *settings]
    assert main(["Evaluate", *given]) == 0
    return given


@pytest.fixture
def inspect(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Inspect:
    def run(*words: str) -> int:
        capsys.readouterr()
        return main(["inspect", words[0], *arguments, *words[1:]])

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_picture_and_the_same_as_text(
    kind: str, inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_id = "v1" if kind == "predictions" else "t002"
    assert inspect(kind, "--image", image_id, "--out", str(tmp_path / "x.png")) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith(f"{image_id}: ") and lines[-1] == str(tmp_path / "x.png")
    assert re.search(r"^\w+ [0-9a-f]{16}, fresh, made \d{4}-", text, re.MULTILINE)
    assert "numpy " in text and "python " in text
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > PANEL_SIDE / 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "predictions"])
def test_no_unseen_name_is_shown_of_what_training_sees(
    kind: str, inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(kind, "--image", "t001", "--out", str(tmp_path / "x.png"))
    text = capsys.readouterr().out
    assert not any(name in text for name in UNSEEN)


@pytest.mark.parametrize(("kind", "image_id"), [("features", "t001"), ("predictions", "v1")])
def test_a_class_has_its_colour_of_the_report(
    kind: str, image_id: str, inspect: Inspect, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = next(Path(arguments[3]).rglob("per_class.csv"))
    colours = {row.name: row.colour for row in read_class_scores(table)}
    assert inspect(kind, "--image", image_id, "--out", str(tmp_path / "x.png")) == 0
    table_text = capsys.readouterr().out.split("\n\n")[1]
    with Image.open(tmp_path / "x.png") as picture:
        drawn = set(hex_colours(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)))
    named = [name for name in colours if re.search(rf"^{name} ", table_text, re.MULTILINE)]
    assert named and all(colours[name] in drawn for name in named)


def test_a_class_that_is_predicted_only_where_nothing_is_labelled_is_listed_without_iou(
    inspect: Inspect,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = Path(arguments[3])
    (shard,) = cache.glob("voc_cached/evaluate/*/val-00000.h5")
    names = [row.name for row in read_class_scores(next(cache.rglob("per_class.csv")))]
    labels = ShardReader(shard).read("v1", "labels")
    monkeypatch.setattr(prediction_sheet, "read_truth", lambda *_: np.full(labels.shape, NO_LABEL))
    assert inspect("predictions", "--image", "v1", "--out", str(tmp_path / "x.png")) == 0
    rows = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]]
    ids, counts = np.unique(labels[labels < len(names)], return_counts=True)
    expected = {names[index]: f"{count / labels.size:.1%}" for index, count in zip(ids, counts, strict=True)}
    assert expected and {cells[0]: cells[3] for cells in rows} == expected
    assert {cells[4] for cells in rows} == {"-"}


def test_regions_are_listed_with_areas_and_nearest_seen_classes(
    inspect: Inspect, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect("pseudo_masks", "--image", "t001", "--out", str(tmp_path / "x.png"))
    lines = capsys.readouterr().out.splitlines()
    cache = Path(arguments[3])
    (shard,) = cache.glob("voc_cached/pseudo_masks/*/train-00000.h5")
    labels = ShardReader(shard).read("t001", "labels")
    rows = [line for line in lines if re.match(r"\d+ +\d", line)]
    assert len(rows) == labels.max() > 0
    assert rows[0].split()[:2] == ["1", f"{(labels == 1).mean():.1%}"]
    assert re.search(r"[a-z]+ -?\d\.\d\d, [a-z]+ -?\d\.\d\d, [a-z]+ -?\d\.\d\d$", rows[0])


def test_without_script_the_gallery_shows_pictures_of_the_worst_images(
    inspect: Inspect, arguments: list[str], tmp_path: Path
) -> None:
    assert inspect("pseudo_masks", "--out", str(tmp_path / "x.html")) == 0
    text = (tmp_path / "x.html").read_text()
    without = text.split("<noscript>")[1].split("</noscript>")[0]
    qualities = [float(value) for value in re.findall(r"quality (-?\d\.\d+) · annotated", without)]
    assert len(qualities) == 4 and qualities == sorted(qualities)
    (shard,) = Path(arguments[3]).glob("voc_cached/pseudo_masks/*/train-00000.h5")
    pictures = re.findall(r'base64,([^"]+)" width="(\d+)" height="(\d+)" alt="(t\d+),', without)
    assert len(pictures) == 4
    for content, across, down, image_id in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)
        assert pixels.shape == (int(down), int(across), 3)
        labels = ShardReader(shard).read(image_id, "labels")
        image, regions = np.split(pixels, 2, axis=1)
        difference = np.abs(image - regions).max(axis=2)
        height, width = (side // n for side, n in zip(difference.shape, labels.shape, strict=True))
        for (row, column), region in np.ndenumerate(labels):
            y, x = row * height + height // 4, column * width + width // 4
            inside = difference[y : y + height // 2, x : x + width // 2]
            assert (inside.mean() > 8) == (region > 0), f"{image_id}: painted where there is a region"


def test_matches_give_each_query_to_one_target(
    inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect("matches", "--image", "t001", "--out", str(tmp_path / "x.png"))
    lines = capsys.readouterr().out.splitlines()
    seen = [line.split() for line in lines if line.startswith("seen ")]
    candidates = [re.search(r"candidate (\d+)  ", line) for line in lines if line.startswith("candidate ")]
    assert [row[1] for row in seen] == ["bicycle"]  # t001 has classes 2 (bicycle, seen) and 17 (unseen)
    taken = [found[1] for found in candidates if found]
    assert len(taken) == len(set(taken)) == min(len(candidates), 3)  # of three candidate queries


def test_unknown_image_is_one_line_with_close_ids(inspect: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("pseudo_masks", "--image", "t2") == 3
    assert capsys.readouterr().err == "error: no image 't2' among the 4 training images: did you mean t002?\n"


def test_what_is_not_in_the_cache_is_one_line(inspect: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("matches", "--image", "t001", "--set", "train.steps=5") == 3
    error = capsys.readouterr().err
    assert "nothing of TrainDecoder for this config (another config has one: config train.steps 3 -> 5)" in error
    assert error.count("\n") == 1


def test_a_damaged_manifest_is_damage_and_not_absence(
    inspect: Inspect, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = next(Path(arguments[3]).glob("*/regions/*/manifest.json"))
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-9])
    try:
        assert inspect("regions", "--image", "t001") == 4
        assert capsys.readouterr().err == f"error: {manifest} is altered: run the stage again\n"
    finally:
        manifest.write_bytes(whole)


def test_only_pseudo_masks_have_a_gallery(inspect: Inspect) -> None:
    assert inspect("regions") == 2


def test_stale_artifacts_are_shown_and_called_stale(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    real = code_module.module_closure
    monkeypatch.setattr(code_module, "module_closure", lambda name, **rest: {**real(name), "stages/x.py": "1"})
    code_module.forget_code()
    assert inspect("pseudo_masks", "--image", "t001", "--out", str(tmp_path / "x.png")) == 0
    code_module.forget_code()
    assert "stale (code stages/x.py, waits for " in capsys.readouterr().out


def test_trial_runs_on_its_images_alone_and_can_be_looked_at(
    inspect: Inspect, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = ["--images", "t001,t003"]
    assert main(["ClusterPseudoMasks", *arguments, *trial, "--quiet"]) == 0
    out = ["--out", str(tmp_path / "x.png")]
    for kind in ("pseudo_masks", "features"):
        assert inspect(kind, "--image", "t003", *out, *trial) == 0
        assert inspect(kind, "--image", "t000", *out, *trial) == 3
    capsys.readouterr()
    assert main(["Evaluate", *arguments, *trial, "--quiet"]) == 3
    assert "no validation image: add one to --images" in capsys.readouterr().err.splitlines()[-1]


# ---- gallery ----


def test_gallery_loads_nothing_and_its_script_is_allowed_by_digest(
    inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect("pseudo_masks", "--out", str(tmp_path / "g.html")) == 0
    assert capsys.readouterr().out.startswith("4 of 4 training images, ")
    page = (tmp_path / "g.html").read_text()
    images = gallery_data(page)["images"]
    assert [image["id"] for image in images] == ["t000", "t001", "t002", "t003"]
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "http://" not in page and "https://" not in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert not any(name in page for name in UNSEEN)
    data = gallery_data(page)
    assert len(data["classes"]) == len(data["class_colours"]) == 15
    annotated = {image["id"]: [data["classes"][place] for place in image["seen"]] for image in data["images"]}
    assert annotated == {"t000": ["aeroplane"], "t001": ["bicycle"], "t002": ["bird"], "t003": ["boat"]}


def test_gallery_is_thinned_evenly(inspect: Inspect, tmp_path: Path) -> None:
    inspect("pseudo_masks", "--out", str(tmp_path / "g.html"), "--limit", "2")
    assert [image["id"] for image in gallery_data((tmp_path / "g.html").read_text())["images"]] == ["t000", "t002"]


def test_gallery_names_regions_as_the_regions_are_stored(
    inspect: Inspect, arguments: list[str], tmp_path: Path
) -> None:
    """At the config's own setting: areas of the cached masks, and names by the cached embeddings."""
    inspect("pseudo_masks", "--out", str(tmp_path / "g.html"))
    data = gallery_data((tmp_path / "g.html").read_text())
    cache = Path(arguments[3])
    (regions_file,) = cache.glob("voc_cached/regions/*/train-00000.h5")
    regions = ShardReader(regions_file)
    files = [ShardReader(path) for path in cache.glob("voc_cached/pseudo_masks/*/train-00000.h5")]
    (masks,) = (file for file in files if file.ids == regions.ids)  # another test runs a trial
    text = load_file(next(cache.glob("voc_cached/text/*/text.safetensors")))["seen"]
    for image in data["images"]:
        labels = masks.read(image["id"], "labels")
        cosines = regions.read(image["id"], "embeddings").astype(np.float32) @ text.T
        place = max(map_ for map_, start in enumerate(image["starts"]) if start <= data["own"])
        rows = [image["regions"][row] for row in image["maps"][place]]
        assert [row[0] for row in rows] == [round(1000 * (labels == n + 1).mean()) for n in range(labels.max())]
        for row, cosine in zip(rows, cosines, strict=True):
            assert row[3] == pytest.approx(100 * cosine[row[2]], abs=1) == pytest.approx(100 * cosine.max(), abs=1)


def test_curve_of_the_gallery_is_what_quality_measures(
    inspect: Inspect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect("quality")
    measured = re.search(r"IoU of the best cluster with an annotated class +([\d.]+) %", capsys.readouterr().out)
    inspect("pseudo_masks", "--out", str(tmp_path / "g.html"))
    data = gallery_data((tmp_path / "g.html").read_text())
    assert measured and float(measured[1]) == pytest.approx(data["curves"]["iou"][data["own"]], abs=0.06)


def test_hostile_names_and_ids_do_not_become_markup() -> None:
    evil = "\"'><script>alert(1)</script></template>"
    table = RegionTable([np.ones((2, 2), np.uint8)])
    dot = "R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="  # a picture of one pixel
    card = GalleryImage(evil, dot, (1, 1), 0.5, (0,), table, [[(0, 50)]])
    curves = {"merges": [0.85], "queries": 1, "regions": [1], "covered": [1], "crowded": [1], "iou": None}
    page = {
        "dataset": evil,
        "total": 1,
        "classes": [evil],
        "class_colours": ["#000000"],
        "stale": [evil],
        "provenance": [evil],
    }
    html = "".join(render_gallery([card], [0, 0], {**page, "own": 0, "method": "crop", "curves": curves}))
    assert "<script>alert" not in html and html.count("<script") == 1 and html.count("</template>") == 2
    assert html.count("&lt;script&gt;alert(1)") >= 6
    assert gallery_data(html)["images"][0]["id"] == evil


def gallery_data(page: str) -> dict[str, Any]:
    """The JSON that a gallery carries."""
    (text,) = re.findall(r'<template id="data">(.*?)</template>', page, re.DOTALL)
    return json.loads(unescape(text))
