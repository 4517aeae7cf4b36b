"""COCO-Stuff 164k: the translation of raw ids against the published facts, both kinds of maps, folds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_classes, load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.configs.runtime_settings import RuntimeConfig
from split_matching.configs.slices import build_slice
from split_matching.errors import DataError
from split_matching.pipeline.stages import make_plan
from split_matching.stages.data import prepare
from split_matching.stages.data.images import read_mask
from split_matching.stages.data.labels import read_all_labels, read_seen_labels
from split_matching.stages.data.layouts.coco_stuff import RAW_IDS, TRAIN_ID
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from tests.error_lines import error_line

# published: train ids and names of the unseen classes
UNSEEN = {
    19: "cow", 23: "giraffe", 28: "suitcase", 29: "frisbee", 36: "skateboard", 51: "carrot", 76: "scissors",
    88: "cardboard", 94: "clouds", 112: "grass", 133: "playingfield", 136: "river", 137: "road", 157: "tree",
    160: "wall-concrete",
}  # fmt: skip
# published: labels of the project, counted from 1 with 0 for unlabeled; the maps hold them less one
LABELS = {
    1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 46: "wine glass",
    67: "dining table", 70: "toilet", 72: "tv", 84: "book", 90: "toothbrush", 92: "banner",
    100: "cardboard", 106: "clouds", 124: "grass",
    145: "playingfield", 148: "river", 149: "road", 169: "tree", 172: "wall-concrete", 182: "wood",
}  # fmt: skip
WITHOUT_MASKS = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender", 91: "hair brush",
}  # fmt: skip
# SHA-256 of the project's own labels.txt (github.com/nightrome/cocostuff at cad9456): 182 names, and 0 for unlabeled
PUBLISHED = "53c59b920927b215690b4ba5aef4ed4794e5e4b278f9e67d7e633ddbfad9b830"


def test_class_list_is_the_published_one() -> None:
    classes = load_shipped_classes("coco_stuff")
    assert classes.ids == tuple(range(171)) and classes.ignore == (255,)
    assert {entry.id: entry.name for entry in classes.unseen_entries} == UNSEEN
    assert len(classes.seen()) == 156 and len(UNSEEN) == 15


def test_raw_ids_become_the_published_train_ids() -> None:
    names = [entry.name for entry in load_shipped_classes("coco_stuff").entries]
    assert {label: names[TRAIN_ID[label - 1]] for label in LABELS} == LABELS
    assert len(RAW_IDS) == 171 and RAW_IDS[80:] == tuple(range(91, 182))  # stuff has no gaps
    assert [TRAIN_ID[raw] for raw in RAW_IDS] == list(range(171)) and TRAIN_ID[255] == 255
    assert all(TRAIN_ID[label - 1] == -1 for label in WITHOUT_MASKS)
    assert [raw for raw in range(256) if TRAIN_ID[raw] == -1] == [
        *sorted(label - 1 for label in WITHOUT_MASKS), *range(182, 255),
    ]  # fmt: skip


def test_every_name_and_raw_id_is_that_of_the_published_list() -> None:
    """Ours, written as the project writes its list, is that file byte by byte."""
    entries = zip(RAW_IDS, load_shipped_classes("coco_stuff").entries, strict=True)
    labels = {0: "unlabeled", **WITHOUT_MASKS, **{raw + 1: entry.name for raw, entry in entries}}
    text = "".join(f"{label}: {labels[label]}\n" for label in range(183))
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED


def tree(root: Path, converted: bool, images: str = "images", masks: str = "annotations") -> Path:
    """Three training images and a validation image; every train id occurs in training."""
    rng = np.random.default_rng(0)
    for split, ids in (("train2017", ["000000000009", "000000000025", "000000000030"]), ("val2017", ["000000000139"])):
        for folder in (root / images / split, root / masks / split):
            folder.mkdir(parents=True, exist_ok=True)
        for place, image_id in enumerate(ids):
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(root / images / split / f"{image_id}.jpg")
            train_ids = np.append(np.arange(171), 255).repeat(4)[np.arange(24 * 32) % 688].reshape(24, 32)
            train_ids = np.roll(train_ids, place).astype(np.uint8)
            raw = np.append(np.array(RAW_IDS, np.uint8), np.zeros(85, np.uint8))
            raw[255] = 255
            name = f"{image_id}_labelTrainIds.png" if converted else f"{image_id}.png"
            Image.fromarray(train_ids if converted else raw[train_ids]).save(root / masks / split / name)
    return root


def run_prepare(root: Path, out: Path, *overrides: str) -> Path:
    config = load_config("coco_stuff", overrides=[f"data.root={root}", *overrides])
    out.mkdir(parents=True)
    reads = make_plan(config)["dataset"].reads
    prepare.run(StageContext(build_slice(config, reads), {}, out, RuntimeConfig(threads=1), root))
    return out


def test_raw_and_converted_maps_give_the_same_bytes(tmp_path: Path) -> None:
    layouts = [(False, "images", "annotations"), (True, "images", "annotations"), (False, ".", "stuffthingmaps")]
    outs = []
    for number, (converted, images, masks) in enumerate(layouts):
        root = tree(tmp_path / f"data{number}", converted, images, masks)
        outs.append(run_prepare(root, tmp_path / f"out{number}"))
    for name in ("images.json", "train.json", "val.json"):
        assert len({(out / name).read_bytes() for out in outs}) == 1
    train = json.loads((outs[0] / "train.json").read_text())["images"]
    assert train[0]["classes"] == [raw for raw in range(171) if raw not in UNSEEN]
    val = json.loads((outs[0] / "val.json").read_text())["images"]
    assert val[0]["classes"] == list(range(171))


def test_training_labels_know_no_unseen_class(tmp_path: Path) -> None:
    root = tree(tmp_path, converted=False)
    config = load_config("coco_stuff", overrides=[f"data.root={root}"])
    source, classes = open_source(config.data, root), load_classes(config.data)
    seen = [entry.id for entry in classes.seen()]
    labels, annotated = read_seen_labels(source, "000000000009", seen)
    truth = read_all_labels(source, "000000000009", classes.ids)
    np.testing.assert_array_equal(annotated, np.isin(truth, seen))
    np.testing.assert_array_equal(np.asarray(seen)[labels[annotated]], truth[annotated])


def test_ids_without_a_class_are_errors(tmp_path: Path) -> None:
    root = tree(tmp_path, converted=False)
    path = root / "annotations/train2017/000000000025.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = 11
    Image.fromarray(mask).save(path)
    config = load_config("coco_stuff", overrides=[f"data.root={root}"])
    source = open_source(config.data, root)
    with pytest.raises(DataError, match=r"id 11 \(1 pixels\) is not in the class list"):
        read_mask(path, None, {*range(171), 255}, source.mask_table(path))
    assert read_mask(path, table=source.mask_table(path))[0, 0] == 255


def test_missing_parts_are_named_with_the_remedy(tmp_path: Path) -> None:
    data = load_config("coco_stuff").data
    remedy = "PrepareDataset --dataset coco_stuff --download"
    assert remedy in error_line(lambda: open_source(data, tmp_path))
    root = tree(tmp_path / "a", converted=False)
    (root / "annotations").rename(tmp_path / "away")
    source = open_source(data, root)
    assert "stuffthingmaps/train2017" in error_line(lambda: source.mask_path("000000000009"))
    (root / "images/val2017/000000000139.jpg").unlink()
    message = error_line(lambda: source.ids("val"))
    assert "val2017" in message and remedy in message
    (tmp_path / "away").rename(root / "annotations")
    (root / "annotations/train2017/000000000009.png").unlink()
    assert "_labelTrainIds.png" in error_line(lambda: open_source(data, root).mask_path("000000000009"))
    assert [path.name for path in _strays(root, data)] == ["000000000139.png"]


def _strays(root: Path, data: object) -> list[Path]:
    Image.new("RGB", (4, 4)).save(root / "images/val2017/000000000140.jpg")
    return open_source(data, root).stray_masks()


def test_fingerprint_follows_images_and_maps(tmp_path: Path) -> None:
    data, root = load_config("coco_stuff").data, tree(tmp_path, converted=False)
    seen = [open_source(data, root).fingerprint()]
    for name in ("images/val2017/000000000139.jpg", "annotations/train2017/000000000009.png"):
        with (root / name).open("ab") as file:
            file.write(b"x")
        seen.append(open_source(data, root).fingerprint())
    (root / "annotations/train2017/000000000009.png").unlink()
    assert len({*seen, open_source(data, root).fingerprint()}) == 4


def test_folds_hide_seen_classes_only(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", converted=False)
    hidden: set[int] = set()
    for fold in range(3):
        config = load_config("coco_stuff", overrides=[f"data.root={root}", f"data.fold={fold}"])
        cut = build_slice(config, ["classes.seen_ids"])
        left = set(cut.classes.seen_ids)
        assert len(left) == 104 and not left & set(UNSEEN)
        hidden |= set(range(171)) - set(UNSEEN) - left
    assert len(hidden) == 156
