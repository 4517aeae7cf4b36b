"""Evaluation on one data set of a decoder that was trained on another."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.class_names import same_classes
from split_matching.configs.load import load_config
from split_matching.errors import DataError
from split_matching.pipeline import trained_on
from split_matching.pipeline.cli import main
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.trained_on import take_over
from split_matching.stages.data.images import read_image, read_mask
from split_matching.stages.data.source import open_source
from split_matching.stages.inference import cross_dataset
from split_matching.stages.inference.segmenter import Segmenter
from tests.folder_data import write

NAMES = ("red plain", "kite", "Blue  dotted", "red striped", "dog")
"""Two are seen classes of `shapes` in other letters, and red striped is an unseen one."""


@pytest.fixture(scope="module")
def exported(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "decoder.safetensors"
    assert main(["export", *tiny_run, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write(tmp_path_factory.mktemp("data") / "rooms", names=NAMES)
    (root / "rooms.yaml").write_text("data: {layout: folder, root: ., classes: classes.txt, unseen: [dog, kite]}\n")
    return root


def test_metrics_are_those_of_the_exported_decoder(
    exported: Path, rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset", str(rooms / "rooms.yaml"), "--artifacts", str(tmp_path), "--trained-on", str(exported)]
    assert main(["Evaluate", *command]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1]).parent
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["extra"]["seen"] == ["red plain", "Blue  dotted"]
    assert metrics["extra"]["trained_on"].startswith("shapes/train/")
    groups = [row["group"] for row in csv.DictReader((folder / "per_class.csv").open())]
    assert groups == ["seen", "unseen", "seen", "unseen", "unseen"]
    # the same images by the exported file alone; names as CLIP reads them, so that they have the same embeddings
    segmenter = Segmenter.load(exported)
    source = open_source(load_config(str(rooms / "rooms.yaml")).data, rooms)
    right = whole = 0
    for image_id in source.ids("val"):
        mask = read_mask(source.mask_path(image_id))
        names = ["red plain", "kite", "blue dotted", "red striped", "dog"]
        labels = segmenter.predict(read_image(source.image_path(image_id)), names).labels
        right, whole = right + int((labels == mask)[mask < 255].sum()), whole + int((mask < 255).sum())
    assert metrics["pixels"] == whole and metrics["pAcc"] == pytest.approx(100 * right / whole, abs=1.0)
    stages = [path.name for path in (tmp_path / "rooms").iterdir()]
    assert "train" not in stages and "pseudo_masks" not in stages


def test_the_report_says_where_it_was_trained(
    exported: Path, rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset", str(rooms / "rooms.yaml"), "--artifacts", str(tmp_path), "--trained-on", str(exported)]
    assert main(["Report", *command]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1]).read_text()
    assert "Trained on another data set" in page and "red plain, Blue  dotted." in page
    made = {path.name for path in (tmp_path / "rooms").iterdir()}
    assert {"features", "evaluate", "report"} <= made and not made & {"text", "pseudo_masks", "regions", "train"}


def test_the_key_is_that_of_the_decoder(exported: Path, rooms: Path, tmp_path: Path) -> None:
    def key(path: Path) -> str:
        config = load_config(str(rooms / "rooms.yaml"), taken=take_over(str(path), ()))
        return make_plan(config)["evaluate"].key

    moved, other = tmp_path / "moved.safetensors", tmp_path / "other.safetensors"
    moved.write_bytes(exported.read_bytes())
    other.write_bytes(exported.read_bytes() + b" ")
    assert key(moved) == key(exported)
    config = load_config(str(rooms / "rooms.yaml"), taken=take_over(str(exported), ()))
    changed = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"trained_on": str(other)})})
    assert make_plan(changed)["evaluate"].key != key(exported)
    assert "evaluate.identity" not in make_plan(load_config("shapes"))["evaluate"].reads


def test_another_decoder_than_the_config_s_is_an_error(exported: Path, rooms: Path, tmp_path: Path, capsys) -> None:
    options = ["--dataset", str(rooms / "rooms.yaml"), "--artifacts", str(tmp_path), "--trained-on", str(exported)]
    assert main(["Evaluate", *options, "--set", "decoder.temperature=5"]) == 3
    assert "was trained with another decoder" in capsys.readouterr().err
    assert main(["Evaluate", *options, "--set", "clip.weights=random"]) == 3
    assert "was trained on other CLIP weights" in capsys.readouterr().err
    assert main(["Evaluate", *options[:-1], "nowhere.safetensors"]) == 3
    assert main(["Evaluate", *options[:-1], "nodata"]) == 2


def test_a_data_set_by_name_is_exported_once(
    tiny_run: list[str], rooms: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tiny_run[3:]
    real, saved = trained_on.load_config, []
    monkeypatch.setattr(
        trained_on, "load_config", lambda name, overrides: real(name, overrides=[*settings, *overrides])
    )
    whole = Segmenter.save
    monkeypatch.setattr(Segmenter, "save", lambda self, path: saved.append(path) or whole(self, path))
    overrides = [f"runtime.artifacts={tiny_run[1]}", "clip.weights=bundled", "train.steps=999"]
    first, again = (take_over("shapes", overrides) for _ in range(2))
    assert first == again and len(saved) == 1 and saved[0].parent == Path(tiny_run[1]) / "shapes/exports"
    assert first["clip"]["weights"] == "bundled" and first["evaluate"]["trained_on"] == str(saved[0])
    settings.append("evaluate.gamma=0.3")  # as after an edit of the config of the training
    changed = take_over("shapes", overrides)
    assert changed["evaluate"]["gamma"] == 0.3 and len(saved) == 2
    with pytest.raises(DataError, match="TrainDecoder"):
        take_over("shapes", [f"runtime.artifacts={tmp_path}", "clip.weights=bundled"])


def test_classes_of_two_data_sets_are_the_same_by_name_word_or_prompt() -> None:
    voc, coco = load_shipped_classes("voc"), load_shipped_classes("coco_stuff")
    known = [text for entry in coco.seen() for text in (entry.name, *entry.prompts)]
    seen = same_classes([(entry.name, *entry.prompts) for entry in voc.entries], known)
    unseen = [entry.name for entry, known in zip(voc.entries, seen, strict=True) if not known]
    assert unseen == ["cow"]  # which is unseen on COCO-Stuff; airplane, couch, tv and others have other names there
    assert same_classes([("wall",), ("Wall ",), ("wallet",)], ["wall"]) == [True, True, False]
    assert np.array_equal(same_classes([("couch", "x")], ["sofa"]), [True])


def test_an_export_may_lack_settings_that_came_later(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about, weights = cross_dataset.read_export(exported)
    segmenter = Segmenter.load(exported)
    config = segmenter.config
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"trained_on": str(exported)})})
    monkeypatch.setattr(cross_dataset, "read_export", lambda path: (about, weights))
    del about["config"]["decoder"]["mfe_scales"]
    assert cross_dataset.load_foreign(config, segmenter.clip) is weights
    about["config"]["decoder"]["unheard_of"] = 1
    with pytest.raises(DataError, match="decoder settings are not known"):
        cross_dataset.load_foreign(config, segmenter.clip)


@pytest.mark.parametrize("name", ["traffic_light", "traffic-light", "TrafficLight", "trafficlight"])
def test_signs_make_no_other_class(name: str) -> None:
    assert same_classes([(name,), ("traffic lamp",)], ["traffic light"]) == [True, False]
