"""Masks of every colour type and bit depth: ids are the values that the file stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.stages.data.images import read_mask
from tests.error_lines import check_error
from tests.png import CHANNELS, GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png, unpack


def values(depth: int, shape: tuple[int, ...] = (5, 13)) -> np.ndarray:
    """Every kind of value of a bit depth, in rows that end inside a byte."""
    found = np.random.default_rng(depth).integers(0, 2**depth, shape)
    found[0, 0], found[0, 1] = 0, 2**depth - 1
    return found


@pytest.mark.parametrize(
    ("colour_type", "depth"),
    [*((GREY, depth) for depth in (1, 2, 4, 8, 16)), *((PALETTE, depth) for depth in (1, 2, 4, 8))],
)
def test_stored_values_are_the_ids(tmp_path: Path, colour_type: int, depth: int) -> None:
    stored = values(depth)
    palette = np.random.default_rng(0).bytes(3 * 2**depth) if colour_type == PALETTE else b""
    (tmp_path / "a.png").write_bytes(png(stored, colour_type, depth, palette))
    read = read_mask(tmp_path / "a.png", (5, 13), range(2**depth))
    np.testing.assert_array_equal(read, stored)
    assert read.dtype == (np.uint16 if depth == 16 else np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_other_programs_equal_an_independent_decoder(tmp_path: Path, mode: str, bits: int) -> None:
    """Smooth masks, as an encoder then filters its rows; Pillow packs palettes of few colours."""
    ids = np.minimum(np.add.outer(np.arange(40), np.arange(50)) // 3, 2**bits - 1)
    picture = Image.fromarray(ids.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        picture.putpalette(np.random.default_rng(0).bytes(3 * 2**bits))
    (Image.fromarray(ids > 0) if mode == "1" else picture).save(tmp_path / "a.png", bits=bits)
    stored = unpack((tmp_path / "a.png").read_bytes())
    assert stored.max() == (1 if mode == "1" else ids.max())
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), stored)


@pytest.mark.parametrize("colour_type", [RGB, GREY_ALPHA, RGBA])
@pytest.mark.parametrize("depth", [8, 16])
def test_colours_are_no_ids(tmp_path: Path, colour_type: int, depth: int) -> None:
    (tmp_path / "a.png").write_bytes(png(values(depth, (5, 13, CHANNELS[colour_type])), colour_type, depth))
    check_error(lambda: read_mask(tmp_path / "a.png"), "a.png: the mask has pixels of mode", "palette or grey PNG")


def test_grey_that_was_saved_as_colour_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.repeat(values(8)[..., None], 3, axis=2), RGB, 8))
    check_error(lambda: read_mask(tmp_path / "a.png"), "mode RGB", "its channels are equal", "grey PNG")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_of_every_depth(tmp_path: Path, depth: int, white_is_zero: bool) -> None:
    """A TIFF of one strip, written by hand: header, the 8 tags that readers need, rows."""
    stored = values(depth)
    rows = b"".join(
        int("".join(format(v, f"0{depth}b") for v in row).ljust(-(-13 * depth // 8) * 8, "0"), 2).to_bytes(
            -(-13 * depth // 8), "big"
        )
        for row in stored.tolist()
    )
    tags = [
        (256, 13),
        (257, 5),
        (258, depth),
        (259, 1),
        (262, 0 if white_is_zero else 1),
        (273, 8 + 2 + 8 * 12 + 4),
        (278, 5),
        (279, len(rows)),
    ]
    entries = b"".join(
        number.to_bytes(2, "little") + b"\3\0\1\0\0\0" + value.to_bytes(4, "little") for number, value in tags
    )
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + entries + bytes(4) + rows)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), stored)


@pytest.mark.parametrize(("value", "words"), [(70000, "value 70000"), (-1, "value -1"), (0.5, "fractions")])
def test_values_that_are_no_ids(tmp_path: Path, value: float, words: str) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32 if value == 0.5 else np.int32)).save(tmp_path / "a.tif")
    check_error(lambda: read_mask(tmp_path / "a.tif"), "a.tif", words)


def test_whole_numbers_of_32_bits_are_ids(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300], [65535, 7]], np.int32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), [[0, 300], [65535, 7]])


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_jpeg_is_named_before_its_colours_are(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png", kind)
    check_error(lambda: read_mask(tmp_path / "a.png"), "the mask is a JPEG")
