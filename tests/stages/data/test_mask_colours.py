"""Masks that show classes by colours: tables, what check-data says of them, and the labels that come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_classes, load_shipped_classes
from split_matching.configs.colour_table import FOLDER, find_table, pack, read_colours, unpack
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError
from split_matching.stages.data.audit import Audit, audit_data
from split_matching.stages.data.images import read_mask
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import no_progress
from tests.error_lines import check_error
from tests.folder_data import TRAIN, VAL, settings, stripes, write

COLOURS = np.array([(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153)], np.uint8)
VOID = (0, 0, 0)
TABLE = "colours:\n" + "".join(f"  - {{id: {i}, colours: [{c.tolist()}]}}\n" for i, c in enumerate(COLOURS))
TABLE += "  - {id: 255, colours: [[0, 0, 0], [9, 9, 9]]}\n"


def write_coloured(root: Path, mode: str = "RGB") -> Path:
    """The data set of `folder_data`, with masks of colours."""
    write(root)
    table = np.zeros((256, 3), np.uint8)
    table[:5] = COLOURS
    for split, masks in (("train", TRAIN), ("val", VAL)):
        for name, ids in masks.items():
            Image.fromarray(table[stripes(ids)]).convert(mode, palette=Image.Palette.ADAPTIVE).save(
                root / f"masks/{split}/{name}.png"
            )
    return root


def audit(root: Path, *more: str) -> Audit:
    data = load_config("folder", overrides=settings(root, *more)).data
    return audit_data(data, load_classes(data), data.root, no_progress, None, threads=1)


def problems(found: Audit) -> list[str]:
    return [finding.text for finding in found.findings if finding.problem]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_ids(tmp_path: Path, mode: str) -> None:
    root = write_coloured(tmp_path, mode)
    (root / "colours.yaml").write_text(TABLE)
    data = load_config("folder", overrides=settings(root, "data.colours=colours.yaml")).data
    source = open_source(data, root)
    for split, masks in (("train", TRAIN), ("val", VAL)):
        for name, ids in masks.items():
            path = source.mask_path(f"{split}.{name}")
            read = read_mask(path, (24, 32), {0, 1, 2, 3, 4, 255}, source.mask_table(path))
            np.testing.assert_array_equal(read, stripes(ids))
            assert read.dtype == np.uint8
    assert audit(root, "data.colours=colours.yaml").passed


def test_a_labelmap_gives_names_and_colours(tmp_path: Path) -> None:
    root = write_coloured(tmp_path)
    names = ("wall", "door", "cat", "dog", "kite")
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(names, COLOURS.tolist(), strict=True)]
    text = "\n".join(["# label:color_rgb:parts:actions", *lines, "background:0,0,0::", ""])
    (root / "labelmap.txt").write_text(text)
    more = ("data.classes=labelmap.txt", "data.colours=labelmap.txt", "data.ignore=[5]")
    found = audit(root, *more)
    assert found.passed, problems(found)
    assert [entry.name for entry in found.classes.entries] == list(names) and found.classes.ignore == (5,)
    assert found.images[0].counts == {0: 11 * 24, 1: 11 * 24, 5: 10 * 24}  # train.a: wall, door, void; 32 columns


def test_check_data_lists_the_colours_and_knows_the_table(tmp_path: Path) -> None:
    root = write_coloured(tmp_path)
    (found,) = problems(audit(root))
    assert found.startswith("5 masks are coloured, first: ") and "Their colours: " in found
    # cats: columns of train.b, train.c and val.d, of 5 masks of 32
    assert "(128, 64, 128)" in found and f"(70, 70, 70) {100 * (16 + 11 + 16) / 160:.1f} %" in found
    assert "these are cityscapes's: --set data.colours=cityscapes" in found


def test_a_colour_without_an_id_is_a_problem(tmp_path: Path) -> None:
    root = write_coloured(tmp_path)
    (root / "colours.yaml").write_text(TABLE.replace("[0, 0, 0], ", ""))
    (found,) = problems(audit(root, "data.colours=colours.yaml"))
    assert "colours without an id of the class list: (0, 0, 0) (6.25 %, 1 mask, e.g. that of train.a)" in found
    data = load_config("folder", overrides=settings(root, "data.colours=colours.yaml")).data
    source = open_source(data, root)
    path = source.mask_path("train.a")
    check_error(lambda: read_mask(path, None, {0, 255}, source.mask_table(path)), "colour (0, 0, 0)", "data.colours")


def test_a_change_of_the_table_changes_the_fingerprint(tmp_path: Path) -> None:
    root = write_coloured(tmp_path)
    data = load_config("folder", overrides=settings(root, "data.colours=colours.yaml")).data
    (root / "colours.yaml").write_text(TABLE)
    before = open_source(data, root).fingerprint()
    (root / "colours.yaml").write_text(TABLE.replace("id: 3", "id: 2"))
    assert open_source(data, root).fingerprint() != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colours: [{id: 1, colours: [[1, 2, 3]]}, {id: 2, colours: [[1, 2, 3]]}]", "is that of ids 1 and 2"),
        ("colours: [{id: 1, colours: [[1, 2, 300]]}]", "less than or equal to 255"),
        ("colours: {red: [1, 2, 3]}", "expected `colours: [{id: 7"),
        ("a: 1", "expected `colours: [{id: 7"),
    ],
)  # fmt: skip
def test_broken_tables(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    check_error(lambda: read_colours(tmp_path / "c.yaml"), tmp_path / "c.yaml", words, kind=ConfigError)
    (tmp_path / "c.txt").write_text("# x\nred:1,2::\n")
    check_error(lambda: read_colours(tmp_path / "c.txt"), "line 2", "NAME:RED,GREEN,BLUE::", kind=ConfigError)


def test_shipped_tables_are_of_their_class_lists() -> None:
    known = {"ade20k": (149, 150), "camvid": (32, 11), "cityscapes": (29, 19)}  # colours, classes
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(known)
    for name, (colours, classes) in known.items():
        table, found = read_colours(FOLDER / f"{name}.yaml"), load_shipped_classes(name)
        assert len(table) == colours and len(found.entries) == classes
        assert set(table.values()) <= {*found.ids, *found.ignore}
    camvid = read_colours(FOLDER / "camvid.yaml")
    assert camvid[pack(64, 128, 192)] == 8  # SUVPickupTruck is a car
    assert find_table({pack(64, 128, 192): 5, pack(0, 0, 64): 5}) == "camvid" and find_table({1: 5, 2: 5}) == ""
    assert unpack(pack(1, 2, 3)) == (1, 2, 3)
