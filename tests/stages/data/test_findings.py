"""Oddities of data sets as people have them: what check-data says of each, and that what is right passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.configs.class_list import load_classes
from split_matching.configs.load import load_config
from split_matching.pipeline.cli import main
from split_matching.stages.data.audit import Audit, audit_data
from split_matching.stages.data.images import read_mask
from split_matching.stages.ground.context import no_progress
from tests.error_lines import check_error
from tests.folder_data import TRAIN, VAL, settings, stripes, write

COLOURS = np.random.default_rng(3).permutation(256 * 3).reshape(256, 3).astype(np.uint8)
Ids = dict[str, dict[str, tuple[int, ...]]]


def audit(root: Path, *more: str, limit: int | None = None) -> Audit:
    data = load_config("folder", overrides=settings(root, *more)).data
    return audit_data(data, load_classes(data), data.root, no_progress, limit, threads=1)


def problems(found: Audit) -> str:
    return "\n".join(finding.text for finding in found.findings if finding.problem)


def notes(found: Audit) -> str:
    return "\n".join(finding.text for finding in found.findings if not finding.problem)


def with_palette(ids: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids)
    picture.putpalette(COLOURS.tobytes())
    return picture


REPACK = {
    "colours reduced": lambda ids: Image.fromarray(COLOURS[ids]).convert("P", palette=Image.Palette.ADAPTIVE),
    "unused entries removed": lambda ids: with_palette(ids).remap_palette(np.unique(ids).tolist()),
    "written as GIF": with_palette,
    "grey written as GIF": Image.fromarray,
}


@pytest.mark.parametrize("name", REPACK)
def test_indices_of_palettes_that_a_program_has_repacked_are_no_ids(tmp_path: Path, name: str) -> None:
    end = ".gif" if "GIF" in name else ".png"
    root = write(tmp_path, mask_end=end)
    for split, masks in (("train", TRAIN), ("val", VAL)):
        for image_id, ids in masks.items():
            REPACK[name](stripes(ids)).save(root / f"masks/{split}/{image_id}{end}")
    text = problems(audit(root, f"data.mask_suffix={end}"))
    assert "masks have palettes of their own" in text and " has index " in text and "data.colours" in text


@pytest.mark.parametrize("palette", ["of all", "one colour for all", "of each split"])
def test_palettes_that_change_no_id_pass(tmp_path: Path, palette: str) -> None:
    root = write(tmp_path, palette=True)
    if palette != "of all":
        for path in (root / "masks").rglob("*.png"):
            picture = Image.open(path)
            colours = COLOURS if path.parent.name == "train" else COLOURS[:, [1, 2, 0]]
            picture.putpalette(bytes(768) if "one" in palette else colours.tobytes())
            picture.save(path)
    assert audit(root).passed


def fill_up(root: Path, rows: dict[str, list[int]], black: bool) -> None:
    """Give masks palettes of five colours, in an order of their own, and black to the end, as many programs do."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), COLOURS[1:5]]) if black else COLOURS[:5]
    for path in (root / "masks").rglob("*.png"):
        picture = Image.open(path)
        picture.putpalette(colours[rows.get(path.stem, [0, 1, 2, 3, 4])].tobytes().ljust(768, b"\0"))
        picture.save(path)


def test_a_palette_that_is_filled_up_with_the_colour_of_a_class_changes_no_id(tmp_path: Path) -> None:
    """Class 0 is black, and so is 255; no mask has both."""
    root = write(tmp_path, {"train": {"a": (1, 0), "b": (255, 1)}, "val": {"v": (3, 4, 255), "w": (0, 2)}})
    fill_up(root, {}, black=True)
    assert "palette" not in problems(audit(root))


def test_repacked_palettes_that_are_filled_up_are_found(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": {"a": (1, 0), "b": (0, 2)}, "val": {"v": (3, 4)}})
    fill_up(root, {"b": [1, 0, 2, 3, 4]}, black=False)
    assert "has index 1 in train.a and 0 in train.b" in problems(audit(root))


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": {"a": (255,)}, "val": {"v": (0, 1)}}, "no mask of train has a pixel of any seen class"),
        ({"train": {"a": (3, 4)}, "val": {"v": (0, 1)}}, "no mask of train has a pixel of any seen class"),
        ({"train": {"a": (0, 3)}, "val": {"v": (255,)}}, "no mask of val has a pixel of any class"),
    ],
)
def test_a_split_without_a_label_is_a_problem(tmp_path: Path, splits: Ids, words: str) -> None:
    """PrepareDataset refuses it."""
    assert words in problems(audit(write(tmp_path, splits)))


def test_a_look_at_some_images_does_not_say_that_a_split_has_no_label(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": {"a": (255,), "b": (0, 1)}, "val": {"v": (0, 1)}})
    assert audit(root, limit=1).passed


def test_ids_that_were_spread_to_be_seen(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": {"a": (0, 50, 100)}, "val": {"v": (150, 200, 255)}})
    assert "all ids are multiples of 50" in problems(audit(root))


def test_a_first_class_in_no_mask_may_be_a_shift(tmp_path: Path) -> None:
    """Masks of 1 to 4 and a list of five names: nothing is outside the list."""
    root = write(tmp_path, {"train": {"a": (1, 2, 3)}, "val": {"v": (3, 4)}})
    assert "id 0 (wall), the first of the list, is in no mask" in notes(audit(root))
    assert "is in no mask" not in notes(audit(root, "data.first_id=1"))
    assert "is in no mask" not in notes(audit(write(tmp_path / "other")))


def test_a_table_of_colours_for_masks_of_ids(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "colours.yaml").write_text("colours: [{id: 0, colours: [[9, 5, 5]]}, {id: 1, colours: [[5, 9, 5]]}]")
    assert "all are grey, so masks hold ids: leave data.colours out" in problems(
        audit(root, "data.colours=colours.yaml")
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "run `git lfs pull`"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC or AVIF picture; convert it"),
        (b"8BPS\0\1", "a document of Photoshop"),
        (b"", "the image file is empty"),
    ],
)
def test_files_that_are_no_images_are_not_called_equal_images(tmp_path: Path, content: bytes, words: str) -> None:
    root = write(tmp_path)
    for path in (root / "images").rglob("*.jpg"):
        path.write_bytes(content)
    assert words in problems(audit(root)) and "in training and in validation" not in problems(audit(root))


def test_masks_that_were_drawn_on_upright_images(tmp_path: Path) -> None:
    root = write(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.open(root / "images/train/a.jpg").save(root / "images/train/a.jpg", exif=exif)
    assert "if masks were drawn on the upright images, turn" in notes(audit(root))
    Image.fromarray(stripes(TRAIN["a"]).T.copy()).save(root / "masks/train/a.png")
    text = problems(audit(root))
    assert "the mask is 24x32 but its image is 32x24; does the image have an EXIF orientation" in text
    assert "exiftran -ai" in text


def test_images_of_two_splits_would_share_a_mask(tmp_path: Path) -> None:
    """Masks lie in one folder, and the splits have images of one name."""
    root = write(tmp_path)
    for path in (root / "masks").rglob("*.png"):
        path.rename(root / "masks" / path.name)
    more = "data.image_folder=images/{split}"
    assert "images would share a mask: train.a and val.a" in problems(audit(root, more))
    command = ["PrepareDataset", "--dataset", "folder", "--artifacts", str(tmp_path / "cache"), "--set"]
    assert main([*command, *settings(root, more)]) == 3
    (root / "images/val/a.jpg").unlink()
    assert main([*command, *settings(root, more)]) == 0


def test_masks_of_black_and_white_among_masks_of_ids(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert "0 and 255" not in problems(audit(root))
    for path in sorted((root / "masks/train").glob("*.png"))[:2]:
        Image.fromarray(stripes((0, 255))).save(path)
    assert "2 masks hold 0 and 255 alone, and 255 is ignored, e.g. that of train." in problems(audit(root))


def test_void_alone_beside_background_is_a_note(tmp_path: Path) -> None:
    root = write(tmp_path)
    for path in sorted((root / "masks/train").glob("*.png"))[:2]:
        Image.fromarray(stripes((0,) * 9 + (255,))).save(path)
    found = audit(root)
    assert "2 masks hold 0 and 255 alone" in notes(found) and "0 and 255" not in problems(found)


def test_of_a_part_it_is_not_said_what_never_occurs(tmp_path: Path) -> None:
    root = write(tmp_path)
    found = notes(audit(root, limit=1))
    assert "not occur in the 1 images of" in found and "never occur" not in found


def test_ids_from_which_one_was_taken(tmp_path: Path) -> None:
    """As by `reduce_zero_label`: 0 is the first class, and void is 255."""
    root = write(tmp_path)
    names = [entry.name for entry in load_classes(load_config("folder", overrides=settings(root)).data).entries]
    rows = "".join(f"  - {{id: {place}, name: {name}}}\n" for place, name in enumerate(names, 1))
    (root / "c.yaml").write_text(f"ignore: [0, 255]\nclasses:\n{rows}")
    text = problems(audit(root, "data.classes=c.yaml", "data.ignore=null"))
    assert "0 and 255 occur, both ignored, and 5 never does: was one taken from all ids, so that 0 is wall?" in text
    part = problems(audit(root, "data.classes=c.yaml", "data.ignore=null", limit=1))
    assert "was one taken" not in part  # of a part nobody knows what never occurs


def test_values_that_published_maps_have_not(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[11]])).save(tmp_path / "a.png")
    check_error(lambda: read_mask(tmp_path / "a.png", None, {0}, [0, -1]), "use those that were published")
    Image.fromarray(np.uint8([[33]])).save(tmp_path / "a_gtFine_labelIds.png")
    path = tmp_path / "a_gtFine_labelIds.png"
    check_error(lambda: read_mask(path, None, {0}), path, "*_labelTrainIds.png")
