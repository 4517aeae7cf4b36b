"""The verb `export` for pseudo masks, through the command line; that of decoders is in test_export_decoder.py."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from split_matching.cache.shard_reader import ShardReader
from split_matching.pipeline import cli


@pytest.mark.slow
def test_both_formats_hold_the_regions_of_the_cache(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shard,) = Path(tiny_run[1]).glob("shapes/pseudo_masks/*/train-*.h5")
    labels = {image_id: ShardReader(shard).read(image_id, "labels") for image_id in ShardReader(shard).ids}
    total = sum(int(found.max()) for found in labels.values())
    out = {"coco": tmp_path / "masks.json", "png": tmp_path / "masks"}
    for to, path in out.items():
        assert cli.main(["export", "pseudo_masks", *tiny_run, "--to", to, "--out", str(path)]) == 0
        assert capsys.readouterr().out.splitlines() == [f"4 images, {total} regions", str(path)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out["coco"]))
    for image in coco.loadImgs(coco.getImgIds()):
        side = image["height"]  # twice as many pixels as cells, or more
        cells = labels[Path(image["file_name"]).stem]
        centres = ((np.arange(side) + 0.5) * len(cells) / side).astype(int)
        found = sum(
            number * coco.annToMask(a) for number, a in enumerate(coco.loadAnns(coco.getAnnIds(image["id"])), 1)
        )
        assert np.array_equal(found, cells[centres][:, centres])
    assert (out["png"] / "train.txt").read_text().split() == list(labels)
    first, *others = labels
    (out["png"] / "train.txt").write_text("".join(f"{image_id}\n" for image_id in others))
    (out["png"] / "val.txt").write_text(f"{first}\n")
    data = {"root": out["png"], "ignore": [0], "unseen": "[region 1]"}
    data |= {"train_split": "train.txt", "val_split": "val.txt"}
    given = ["--dataset", "folder", "--artifacts", str(tmp_path), "--set", *(f"data.{k}={v}" for k, v in data.items())]
    assert cli.main(["PrepareDataset", *given, "--quiet"]) == 0
    lists = json.loads(next(tmp_path.glob("folder/dataset/*/val.json")).read_text())
    there = sorted({int(region) for region in labels[first].ravel()} - {0})
    assert [image["classes"] for image in lists["images"]] == [there]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["pseudo_masks", "--out", "x"],
            "--to says the format of pseudo masks: expected `export pseudo_masks --to coco`",
        ),
        (
            ["--to", "coco", "--out", "x"],
            "--to says the format of pseudo masks: expected `export pseudo_masks --to coco`",
        ),
        (["masks", "--out", "x"], "argument KIND: 'masks': expected one of 'decoder', 'pseudo_masks'"),
        (["pseudo_masks", "--to", "coco", "--out", "/"], "argument --out: / is a folder"),
        (["pseudo_masks", "--to", "png", "--out", "/etc/passwd"], "argument --out: /etc/passwd is a file; expected"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_pseudo_masks_that_are_not_there_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--artifacts", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "x.json")]
    assert cli.main(["export", "pseudo_masks", *words]) == 3
    error = capsys.readouterr().err
    assert "the pseudo masks of shapes" in error and "ClusterPseudoMasks --dataset shapes --artifacts" in error
    assert error.count("\n") == 1
