"""Pseudo masks for other programs: read back by pycocotools, and as a data set of the layout `folder`."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError
from split_matching.stages.candidates.mask_export import MaskExporter, encode_runs
from split_matching.stages.data.source import open_source
from split_matching.stages.pages.colours import region_colours

MAPS = {
    "a": np.array([[1, 1, 2], [1, 0, 2]], np.uint8),
    "b": np.zeros((2, 3), np.uint8),
    "c": np.array([[0, 0, 0], [3, 2, 1]], np.uint8),
}
SIZES = {"a": (4, 6), "b": (2, 3), "c": (4, 3)}
FULL = {  # at the images' sizes, by hand
    "a": [[1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2], [1, 1, 0, 0, 2, 2], [1, 1, 0, 0, 2, 2]],
    "b": [[0, 0, 0], [0, 0, 0]],
    "c": [[0, 0, 0], [0, 0, 0], [3, 2, 1], [3, 2, 1]],
}


@pytest.fixture
def exporter(tmp_path: Path) -> MaskExporter:
    root = tmp_path / "data"
    (root / "images/train").mkdir(parents=True)
    for image_id, size in SIZES.items():
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(root / f"images/train/{image_id}.jpg")
    shards = SimpleNamespace(ids=tuple(MAPS), read=lambda image_id, field: MAPS[image_id])
    masks = SimpleNamespace(shards=lambda split: shards, manifest={"dataset": "mine"}, key="5" * 64)
    listed = [{"id": f"train.{name}", "height": size[0], "width": size[1]} for name, size in SIZES.items()]
    shards.ids = tuple(entry["id"] for entry in listed)
    shards.read = lambda image_id, field: MAPS[image_id.removeprefix("train.")]
    source = open_source(DataConfig(layout="folder", train_split="train"), root)
    return MaskExporter(masks, SimpleNamespace(json=lambda name: {"train": listed}), source)


def test_pycocotools_reads_every_region(exporter: MaskExporter, tmp_path: Path) -> None:
    path = tmp_path / "new/masks.json"
    assert exporter.write_coco(path, tmp_path / "data") == (3, 5)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs([1, 2, 3])] == [f"images/train/{name}.jpg" for name in MAPS]
    for number, name in enumerate(MAPS, 1):
        full = np.zeros(SIZES[name], int)
        for region, annotation in enumerate(coco.loadAnns(coco.getAnnIds(imgIds=number)), 1):
            mask = coco.annToMask(annotation)
            full += region * mask
            assert annotation["area"] == mask.sum() == coco_masks.area(annotation["segmentation"])
            assert annotation["bbox"] == coco_masks.toBbox(annotation["segmentation"]).tolist()
        assert full.tolist() == FULL[name]
    assert json.loads(path.read_text())["info"]["version"] == "5" * 64


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (300, 200)])
def test_run_lengths_are_those_of_pycocotools(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    assert encode_runs(mask) == coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_a_long_run_takes_several_groups_of_bits() -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[1500:, 1999] = True
    assert encode_runs(mask) == coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_pngs_are_a_data_set_of_the_layout_folder(exporter: MaskExporter, tmp_path: Path) -> None:
    from split_matching.configs.class_list import load_classes
    from split_matching.stages.data.images import read_image, read_mask

    out = tmp_path / "new/masks"
    assert exporter.write_pngs(out, region_colours(254)) == (3, 5)
    data = DataConfig(
        layout="folder", root=out, classes="classes.txt", ignore=(0,), unseen=("region 3",), train_split="train.txt"
    )
    assert load_classes(data).ids == (1, 2, 3)
    source = open_source(data, out)
    assert source.ids("train") == [f"train.{name}" for name in MAPS]
    for name in MAPS:
        image_id = f"train.{name}"
        palette = Image.open(source.mask_path(image_id)).getpalette()
        assert palette is not None and palette[:9] == [0, 0, 0, *region_colours(254)[:2].ravel().tolist()]
        assert read_image(source.image_path(image_id)).shape == (*SIZES[name], 3)
        assert read_mask(source.mask_path(image_id), SIZES[name], {0, 1, 2, 3}).tolist() == FULL[name]
    assert sorted(path.name for path in out.parent.iterdir()) == ["masks"]


def test_a_folder_that_holds_something_is_left_alone(exporter: MaskExporter, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/mine.txt").touch()
    with pytest.raises(DataError, match="masks: holds files already; expected a new or an empty folder"):
        exporter.write_pngs(tmp_path / "masks", region_colours(254))
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["mine.txt"]
