"""Masks of every colour type and bit depth: ids are the values that the file stores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from split_matching.stages.data.images import read_mask
from tests.error_lines import check_error
from tests.png import CHANNELS, GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, pack_row, png, unpack


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 13), (17, 3)])
@pytest.mark.parametrize(
    ("colour_type", "depth"),
    [*((GREY, depth) for depth in (1, 2, 4, 8, 16)), *((PALETTE, depth) for depth in (1, 2, 4, 8))],
)
def test_interlaced_files(tmp_path: Path, colour_type: int, depth: int, shape: tuple[int, int]) -> None:
    """Adam7; narrow files have no pixels in some of the passes."""
    stored = np.random.default_rng(depth).integers(0, 2**depth, shape)
    palette = bytes(3 * 2**depth) if colour_type == PALETTE else b""
    (tmp_path / "a.png").write_bytes(png(stored, colour_type, depth, palette, interlaced=True))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), stored)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"gAMA", (100000).to_bytes(4, "big")),
        (b"sBIT", b"\3"),
        (b"tRNS", b"\0\1"),
        (b"bKGD", b"\0\1"),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),  # turned by 90 degrees
    ],
)
@pytest.mark.parametrize("depth", [4, 8, 16])
def test_what_else_a_file_says_changes_no_id(tmp_path: Path, kind: bytes, content: bytes, depth: int) -> None:
    stored = values(depth)
    (tmp_path / "a.png").write_bytes(png(stored, GREY, depth, more=chunk(kind, content)))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), stored)


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


def test_ids_in_the_red_channel_are_named_so(tmp_path: Path) -> None:
    """As CARLA's camera writes them."""
    Image.fromarray(np.dstack([values(8), np.zeros((5, 13, 2))]).astype(np.uint8)).save(tmp_path / "a.png")
    check_error(lambda: read_mask(tmp_path / "a.png"), "its red channel alone has values", "grey PNG")


def tiff(stored: np.ndarray, depth: int, white_is_zero: bool, order: Literal["little", "big"]) -> bytes:
    """A TIFF of one strip, written by hand: header, the 8 tags that readers need, rows."""
    rows = b"".join(pack_row(row, depth) for row in stored.tolist())
    rows = stored.astype("<u2" if order == "little" else ">u2").tobytes() if depth == 16 else rows
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
        number.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order) + value.to_bytes(4, order)
        for number, value in tags
    )
    start = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order) + len(tags).to_bytes(2, order)
    return start + entries + bytes(4) + rows


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("depth", "white_is_zero"), [*itertools.product((1, 2, 4, 8), (False, True)), (16, False)])
def test_tiff_of_every_depth(tmp_path: Path, depth: int, white_is_zero: bool, order: Literal["little", "big"]) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(values(depth), depth, white_is_zero, order))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), values(depth))


@pytest.mark.parametrize(("value", "words"), [(70000, "value 70000"), (-1, "value -1"), (0.5, "fractions")])
def test_values_that_are_no_ids(tmp_path: Path, value: float, words: str) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32 if value == 0.5 else np.int32)).save(tmp_path / "a.tif")
    check_error(lambda: read_mask(tmp_path / "a.tif"), "a.tif", words)


def test_ids_in_the_alpha_channel_are_named_so(tmp_path: Path) -> None:
    alpha = values(8)
    Image.fromarray(np.dstack([np.zeros((5, 13, 3)), alpha]).astype(np.uint8)).save(tmp_path / "a.png")
    check_error(lambda: read_mask(tmp_path / "a.png"), "its alpha channel alone has values", "grey PNG")


def test_two_channels_are_named_so(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([values(8), values(8)[::-1]]).astype(np.uint8)).save(tmp_path / "a.png")
    check_error(lambda: read_mask(tmp_path / "a.png"), "mode LA", "it has two channels", "grey PNG")


def test_whole_numbers_with_a_point_are_ids(tmp_path: Path) -> None:
    Image.fromarray(np.float32([[0, 3], [255, 300]])).save(tmp_path / "a.tif")
    assert read_mask(tmp_path / "a.tif").tolist() == [[0, 3], [255, 300]]


def test_whole_numbers_of_32_bits_are_ids(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300], [65535, 7]], np.int32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), [[0, 300], [65535, 7]])


def test_a_tiff_of_a_rare_kind_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(values(16), 16, True, "big"))
    check_error(lambda: read_mask(tmp_path / "a.tif"), "a TIFF of a kind that is not read; save it as PNG")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.tif", {"compression": "jpeg"}, "a TIFF that is compressed as a JPEG, which smears ids"),
        ("a.webp", {}, "a lossy WebP, which smears ids"),
        ("a.webp", {"icc_profile": b"odd"}, "a lossy WebP, which smears ids"),
        ("a.webp", {"save_all": True, "append_images": [Image.new("L", (13, 5), 9)]}, "a lossy WebP"),
        ("a.tif", {"save_all": True, "append_images": [Image.new("L", (13, 5))]}, "has several pages"),
        ("a.png", {"save_all": True, "append_images": [Image.new("L", (13, 5))]}, "has several pages"),
        ("a.gif", {"save_all": True, "append_images": [Image.new("L", (13, 5))]}, "has several pages"),
    ],
)
@pytest.mark.parametrize("table", [None, {0: 0}])
def test_files_that_hold_other_ids_than_were_drawn(
    tmp_path: Path, name: str, options: dict[str, object], words: str, table: dict[int, int] | None
) -> None:
    Image.fromarray(values(4).astype(np.uint8)).save(tmp_path / name, **options)  # type: ignore[arg-type]
    check_error(lambda: read_mask(tmp_path / name, table=table), name, words)


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {}])
def test_a_smaller_copy_is_no_second_page(tmp_path: Path, options: dict[str, str]) -> None:
    """GeoTIFFs have smaller copies of themselves inside, for quick views."""
    ids = values(8).astype(np.uint8)
    small = Image.fromarray(ids[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    Image.fromarray(ids).save(tmp_path / "a.tif", save_all=True, append_images=[small], **options)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), ids)


def test_a_lossless_webp_with_metadata_holds_what_was_drawn(tmp_path: Path) -> None:
    colours = np.array([[[1, 2, 3], [250, 0, 7]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.webp", lossless=True, icc_profile=b"odd")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.webp", table={0x010203: 5, 0xFA0007: 2}), [[5, 2]])


@pytest.mark.parametrize(
    ("kind", "pages", "words"),
    [("JPEG", 1, "a JPEG,"), ("JPEG2000", 1, "a JPEG 2000,"), ("MPO", 1, "a JPEG,"), ("MPO", 2, "a JPEG,")],
)
def test_a_jpeg_is_named_before_its_colours_and_pages_are(tmp_path: Path, kind: str, pages: int, words: str) -> None:
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    more = {"save_all": True, "append_images": [picture.copy()]} if pages > 1 else {}
    picture.save(tmp_path / "a.png", kind, **more)  # type: ignore[arg-type]
    check_error(lambda: read_mask(tmp_path / "a.png"), f"the mask is {words}")
