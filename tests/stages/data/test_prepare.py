"""PrepareDataset: what it writes, which data it rejects, and that nothing about unseen classes gets through."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.configs.load import load_config
from split_matching.configs.runtime_settings import RuntimeConfig
from split_matching.configs.slices import build_slice
from split_matching.errors import DataError
from split_matching.stages.data import prepare
from split_matching.stages.data.prepare import digest_raw_files
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext, no_progress

READS = ("data.layout", "data.train_split", "data.val_split", "data.mask_folder", "classes.ids")


def run_prepare(root: Path, out: Path, threads: int = 2, progress: Any = no_progress) -> dict[str, Any]:
    """Run the stage and return its summary."""
    out.mkdir(parents=True, exist_ok=True)
    config = build_slice(load_config("voc"), READS)
    runtime = RuntimeConfig(threads=threads)
    return prepare.run(
        StageContext(config=config, inputs={}, out=out, runtime=runtime, data_root=root, progress=progress)
    )


def prepare_error(root: Path, out: Path) -> str:
    with pytest.raises(DataError) as caught:
        run_prepare(root, out)
    assert "\n" not in str(caught.value)
    assert not list(out.glob("*.json"))
    return str(caught.value)


def read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


def test_images_are_described_without_labels(voc_tree, tmp_path):
    tree = voc_tree()
    run_prepare(tree.root, tmp_path / "out")
    images = read(tmp_path / "out", "images.json")
    assert [entry["id"] for entry in images["train"]] == ["2007_000001", "2007_000002"]
    assert images["val"] == [
        {
            "id": "2007_000003",
            "height": 24,
            "width": 32,
            "sha256": hashlib.sha256(tree.image("2007_000003").read_bytes()).hexdigest(),
        }
    ]


def test_train_names_seen_ids_only_and_val_all(voc_tree, tmp_path):
    run_prepare(voc_tree().root, tmp_path / "out")
    train, val = read(tmp_path / "out", "train.json"), read(tmp_path / "out", "val.json")
    assert [entry["classes"] for entry in train["images"]] == [[1], [2, 15]]
    assert [entry["classes"] for entry in val["images"]] == [[3, 17]]
    assert {key for entry in train["images"] + val["images"] for key in entry} == {"id", "labels_sha256", "classes"}


def test_files_are_canonical(voc_tree, tmp_path):
    run_prepare(voc_tree().root, tmp_path / "out")
    for name in ("images.json", "train.json", "val.json"):
        text = (tmp_path / "out" / name).read_text()
        assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) + "\n"


def test_summary(voc_tree, tmp_path, make_mask):
    tree = voc_tree(train={"a": make_mask(0, 1), "b": make_mask(16, 255)}, val={"c": make_mask(3)})
    assert run_prepare(tree.root, tmp_path / "out") == {
        "train_images": 2,
        "val_images": 1,
        "train_images_without_seen": 1,
        "train_seen_share": 0.25,
    }


def test_threads_do_not_change_a_byte(voc_tree, tmp_path, make_mask):
    tree = voc_tree(train={f"t{number:03d}": make_mask(0, 1 + number % 20) for number in range(30)})
    for threads in (1, 4):
        run_prepare(tree.root, tmp_path / str(threads), threads)
    for name in ("images.json", "train.json", "val.json", "raw.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "4" / name).read_bytes()


def test_progress_counts_every_image(voc_tree, tmp_path):
    seen: list[tuple[int, int]] = []
    run_prepare(voc_tree().root, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_digest_of_the_raw_files_can_be_told_without_decoding(voc_tree, tmp_path):
    tree = voc_tree()
    run_prepare(tree.root, tmp_path / "out")
    source = open_source(load_config("voc").data, tree.root)
    seen: list[tuple[int, int]] = []
    content = digest_raw_files(source, lambda done, total: seen.append((done, total)), threads=2)
    assert read(tmp_path / "out", "raw.json") == {"sha256": content}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    tree.mask("2007_000003").write_bytes(tree.mask("2007_000003").read_bytes()[:-1] + b"x")
    assert digest_raw_files(source) != content
    tree.mask("2007_000003").unlink()
    with pytest.raises(DataError, match="2007_000003"):
        digest_raw_files(source)


# ---- leakage ----


@pytest.mark.parametrize("blank", [0, 255, 18])
def test_unseen_training_pixels_leave_no_trace(voc_tree, tmp_path, make_mask, blank):
    """An unseen class turned to background, to void or to another unseen class: every byte stays the same."""
    raw = {"a": make_mask(0, 1, 16, 255), "b": make_mask(17, 19), "c": make_mask(2, 15, 20)}
    changed = {key: np.where((mask >= 16) & (mask <= 20), blank, mask) for key, mask in raw.items()}
    for name, masks in (("raw", raw), ("changed", changed)):
        run_prepare(voc_tree(train=masks, name=name).root, tmp_path / f"out-{name}")
    for name in ("images.json", "train.json", "val.json"):
        assert (tmp_path / "out-raw" / name).read_bytes() == (tmp_path / "out-changed" / name).read_bytes()


def test_void_and_background_are_one_in_training(voc_tree, tmp_path, make_mask):
    for name, other in (("one", 0), ("two", 255)):
        run_prepare(voc_tree(train={"a": make_mask(1, other)}, name=name).root, tmp_path / f"out-{name}")
    assert (tmp_path / "out-one/train.json").read_bytes() == (tmp_path / "out-two/train.json").read_bytes()


def test_a_seen_pixel_does_leave_a_trace(voc_tree, tmp_path, make_mask):
    mask = make_mask(0, 1)
    for name in ("one", "two"):
        run_prepare(voc_tree(train={"a": mask}, name=name).root, tmp_path / f"out-{name}")
        mask = mask.copy()
        mask[0, 0] = 1
    assert (tmp_path / "out-one/train.json").read_bytes() != (tmp_path / "out-two/train.json").read_bytes()
    assert (tmp_path / "out-one/images.json").read_bytes() == (tmp_path / "out-two/images.json").read_bytes()


def test_validation_labels_tell_unseen_classes_apart(voc_tree, tmp_path, make_mask):
    for name, raw in (("one", 16), ("two", 17)):
        run_prepare(voc_tree(val={"v": make_mask(0, raw)}, name=name).root, tmp_path / f"out-{name}")
    assert (tmp_path / "out-one/val.json").read_bytes() != (tmp_path / "out-two/val.json").read_bytes()
    assert (tmp_path / "out-one/train.json").read_bytes() == (tmp_path / "out-two/train.json").read_bytes()


# ---- bad input ----


def test_truncated_image(voc_tree, tmp_path):
    tree = voc_tree()
    path = tree.image("2007_000002")
    path.write_bytes(path.read_bytes()[:-200])
    message = prepare_error(tree.root, tmp_path / "out")
    assert str(path) in message and "restore" in message


def test_mask_of_another_size(voc_tree, tmp_path, make_mask):
    tree = voc_tree()
    tree.write_mask("2007_000003", make_mask(0, 3, shape=(24, 30)))
    message = prepare_error(tree.root, tmp_path / "out")
    assert str(tree.mask("2007_000003")) in message and "30x24" in message and "32x24" in message


@pytest.mark.parametrize("image_id", ["2007_000001", "2007_000003"])
def test_unknown_id_in_either_split(voc_tree, tmp_path, make_mask, image_id):
    tree = voc_tree()
    tree.write_mask(image_id, make_mask(0, 21))
    message = prepare_error(tree.root, tmp_path / "out")
    assert str(tree.mask(image_id)) in message and "id 21" in message and "class list" in message


def test_absent_image_and_mask(voc_tree, tmp_path):
    tree = voc_tree()
    tree.image("2007_000001").unlink()
    message = prepare_error(tree.root, tmp_path / "out")
    assert str(tree.image("2007_000001")) in message and "remove the id" in message
    tree.write_image("2007_000001", (24, 32))
    tree.mask("2007_000001").unlink()
    assert str(tree.mask("2007_000001")) in prepare_error(tree.root, tmp_path / "out")


def test_empty_split(voc_tree, tmp_path):
    tree = voc_tree()
    tree.listing("val").write_text("")
    message = prepare_error(tree.root, tmp_path / "out")
    assert str(tree.listing("val")) in message and "empty" in message


def test_overlapping_splits(voc_tree, tmp_path):
    tree = voc_tree()
    tree.write_list("val", ["2007_000003", "2007_000002", "2007_000001"])
    assert "image 2007_000001 and 1 more" in prepare_error(tree.root, tmp_path / "out")


def test_many_bad_files_name_the_first_and_list_all(voc_tree, tmp_path):
    tree, out = voc_tree(), tmp_path / "out"
    bad = [tree.image("2007_000001"), tree.mask("2007_000002"), tree.image("2007_000003")]
    good = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"nonsense")
    message = prepare_error(tree.root, out)
    assert message.startswith(str(bad[0])) and "2 more" in message and str(out / "bad_files.txt") in message
    lines = (out / "bad_files.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [str(path) for path in bad]
    for path, data in zip(bad, good, strict=True):
        path.write_bytes(data)
    run_prepare(tree.root, out)
    assert sorted(path.name for path in out.iterdir()) == ["images.json", "raw.json", "train.json", "val.json"]


# ---- photographs ----


def test_real_photographs_pass(voc_mini, tmp_path):
    summary = run_prepare(voc_mini, tmp_path / "out")
    assert (summary["train_images"], summary["val_images"]) == (160, 60)
    assert 0.05 < summary["train_seen_share"] < 0.6
    train = read(tmp_path / "out", "train.json")
    assert {raw for entry in train["images"] for raw in entry["classes"]} == set(range(1, 16))


def test_an_image_under_two_names_in_both_splits_is_told(voc_tree, tmp_path):
    tree = voc_tree()
    tree.image("2007_000003").write_bytes(tree.image("2007_000001").read_bytes())
    said: list[str] = []
    config = build_slice(load_config("voc"), READS)
    prepare.run(StageContext(config=config, inputs={}, out=tmp_path, data_root=tree.root, say=said.append))
    assert said == [
        "warning: 1 image is in training and in validation, e.g. 2007_000001 = 2007_000003: see `check-data`"
    ]
