"""Masks that show classes by colours: tables, what check-data says of them, and the labels that come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_classes, load_shipped_classes
from split_matching.configs.colour_table import FOLDER, find_tables, pack, read_colours, unpack
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError
from split_matching.stages.data.audit import Audit, audit_data
from split_matching.stages.data.images import read_mask
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import no_progress
from tests.error_lines import check_error
from tests.folder_data import TRAIN, VAL, settings, stripes, write
from tests.png import RGB, png

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
    assert "has these" not in found  # Cityscapes has, but gives `wall` another id than the class list
    names = root / "classes.txt"
    names.write_text(names.read_text().replace("wall", "window"))
    assert "cityscapes has these: --set data.colours=cityscapes" in problems(audit(root))[0]


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
    (root / "colours.yaml").write_text(TABLE)
    data = load_config("folder", overrides=settings(root, "data.colours=colours.yaml")).data
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
    known = {"ade20k": (149, 150), "camvid": (32, 11), "cityscapes": (29, 19), "voc": (256, 20)}  # colours, classes
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(known)
    for name, (colours, classes) in known.items():
        table, found = read_colours(FOLDER / f"{name}.yaml"), load_shipped_classes(name)
        assert len(table.ids) == colours and len(found.entries) == classes
        assert name == "voc" or set(table.ids.values()) <= {*found.ids, *found.ignore}
        assert not table.find_contradiction(found.names_by_id)
    camvid = read_colours(FOLDER / "camvid.yaml")
    assert camvid.ids[pack(64, 128, 192)] == 8  # SUVPickupTruck is a car
    voc = read_colours(FOLDER / "voc.yaml").ids
    assert (voc[pack(128, 0, 0)], voc[pack(0, 64, 128)], voc[pack(224, 224, 192)]) == (1, 20, 255)
    assert unpack(pack(1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize("name", ["ade20k", "camvid", "cityscapes", "voc"])
def test_masks_in_the_colours_of_a_table_are_known_by_their_class_list(name: str) -> None:
    classes = load_shipped_classes(name)
    ids = read_colours(FOLDER / f"{name}.yaml").ids
    drawn = {colour: 5 for colour, raw in ids.items() if raw in (*classes.ids, *classes.ignore)}
    assert find_tables(drawn, classes.names_by_id, classes.ignore) == [name]
    assert find_tables({next(iter(drawn)): 5}, classes.names_by_id, classes.ignore) == []  # one colour says nothing
    assert find_tables({1: 5, 2: 5}, classes.names_by_id, classes.ignore) == []
    strange = {1: 5 * len(drawn) // 8}
    assert find_tables(drawn | strange, classes.names_by_id, classes.ignore) == []


def test_black_red_and_olive_are_those_of_voc_to_its_class_list() -> None:
    colours = dict.fromkeys((pack(0, 0, 0), pack(128, 0, 0), pack(128, 128, 0)), 5)  # CamVid has all three
    voc, camvid = load_shipped_classes("voc"), load_shipped_classes("camvid")
    assert find_tables(colours, voc.names_by_id, voc.ignore) == ["voc"]
    assert find_tables(colours, camvid.names_by_id, camvid.ignore) == ["camvid", "voc"]


def test_a_table_that_gives_a_class_another_id_is_refused(tmp_path: Path) -> None:
    root = write_coloured(tmp_path)
    names = [entry.name for entry in load_classes(load_config("folder", overrides=settings(root)).data).entries]
    rows = [f"{name}:{place},0,0::" for place, name in enumerate(names)]
    (root / "labelmap.txt").write_text("\n".join(rows[::-1]))
    overrides = settings(root, "data.colours=labelmap.txt")
    check_error(
        lambda: load_config("folder", overrides=overrides),
        "labelmap.txt",
        "in the class list",
        "correct one",
        kind=ConfigError,
    )


@pytest.mark.parametrize(
    ("mode", "words"), [("RGBA", "transparent colours"), ("LA", "transparent colours"), ("I;16", "colours of 8 bits")]
)
def test_masks_without_plain_colours_are_refused(tmp_path: Path, mode: str, words: str) -> None:
    image = Image.new(mode, (4, 4), {"RGBA": (255, 0, 0, 128), "LA": (9, 0), "I;16": 1000}[mode])
    image.save(tmp_path / "a.png")
    check_error(lambda: read_mask(tmp_path / "a.png", None, {1}, {0xFF0000: 1}), tmp_path / "a.png", words)


def test_what_is_transparent_may_be_black(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", None, {1, 7}, {0xFF0000: 1, 0: 7}).tolist() == [[7, 1]]


def test_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.full((2, 3, 3), 128), RGB, 16))
    check_error(lambda: read_mask(tmp_path / "a.png", None, {0, 1}, {0: 0, 0x800000: 1}), "colours of 8 bits")


def test_a_table_below_a_root_that_is_gone_is_not_looked_for(tmp_path: Path) -> None:
    data = DataConfig(layout="folder", root=tmp_path / "gone", classes="voc", colours="labelmap.txt")
    assert len(load_classes(data).entries) == 20
