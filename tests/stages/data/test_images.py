"""Decoding of images and masks, and the remapping of labels."""

from __future__ import annotations

import io
import os
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import load_config
from split_matching.stages.data.images import MAX_BYTES, measure, read_bytes, read_image, read_mask
from split_matching.stages.data.labels import (
    IGNORE,
    all_labels,
)
from split_matching.stages.data.photos import find_photos, read_photo
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.budget import Budget
from tests.error_lines import check_error

VOC_IDS = range(1, 21)
ALLOWED = (*VOC_IDS, 0, 255)


# ---- images ----


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    grey = np.tile(np.where(np.arange(16) < 8, 0, 255).astype(np.uint8), (12, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (12, 16, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        ("a.jp2", {"irreversible": False}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.bmp", {}, 0),
        ("a.tif", {}, 0),
        ("a.jpg", {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (16, 12))]}, 8),  # of phones
    ],
)
def test_every_format_is_read(tmp_path, name, options, most):
    colours = np.add.outer(np.arange(12), np.arange(16))[..., None] * np.array([3, 5, 7])
    Image.fromarray(colours.astype(np.uint8)).save(tmp_path / name, **options)
    read = read_image(tmp_path / name)
    assert read.shape == (12, 16, 3) and np.abs(read.astype(int) - colours).max() <= most


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, 0].tolist() == [128, 128, 128]


def test_float_pixels_are_an_error(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    check_error(lambda: read_image(tmp_path / "float.tif"), "float.tif", "32 bits")


def png_with_exif(exif: bytes) -> bytes:
    """A PNG of 20x10 pixels with a chunk of EXIF data, whatever it is."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (10, 20, 30)).save(buffer, "PNG")
    data, body = buffer.getvalue(), b"eXIf" + exif
    return data[:33] + len(exif).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize(
    "exif",
    [
        b"not a tiff header",
        b"",
        b"II*\0",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0",
    ],
)
def test_an_image_with_damaged_exif_is_read_as_it_is(tmp_path, exif):
    (tmp_path / "a.png").write_bytes(png_with_exif(exif))
    assert read_photo(tmp_path / "a.png").shape == read_image(tmp_path / "a.png").shape == (10, 20, 3)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_is_turned_once(tmp_path, kind, turn):
    exif = Image.Exif()
    exif[274] = turn
    Image.new("RGB", (20, 10)).save(tmp_path / f"a.{kind}", exif=exif)
    assert read_photo(tmp_path / f"a.{kind}").shape == ((20, 10, 3) if turn > 4 else (10, 20, 3))


def test_only_listed_formats_are_decoded(tmp_path, monkeypatch):
    """Pillow gives EPS files, whatever their name, to Ghostscript."""
    started = []
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", lambda *_: started.append(1))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.jpg").write_bytes(eps)
    check_error(lambda: read_image(tmp_path / "a.jpg"), "a.jpg", "not an image: expected JPEG", "WEBP")
    assert not started


def test_a_pipe_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("nowhere")
    (tmp_path / "._b.jpg").touch()  # of macOS
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/b.jpg").touch()
    assert [photo.path.name for photo in find_photos(tmp_path, tmp_path / "out")] == ["a.jpg", "b.jpg", "c.jpg"]
    check_error(lambda: read_photo(tmp_path / "a.jpg"), "a.jpg", "not a regular file")
    assert find_photos(tmp_path / "a.jpg", tmp_path / "out")[0].path == tmp_path / "a.jpg"


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    check_error(lambda: read_bytes(tmp_path / "a.jpg"), "a.jpg", "1,073,741,825 bytes")


def test_decoding_takes_from_the_budget(tmp_path, monkeypatch):
    taken = []
    budget = Budget(100)
    monkeypatch.setattr(budget, "take", lambda pixels: taken.append(pixels) or Budget.take(budget, pixels))
    monkeypatch.setattr("split_matching.stages.data.images._BUDGET", budget)
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png")
    read_mask(tmp_path / "a.png")
    assert taken == [200, 200]


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_stored_pixels_of_an_image_are_read_and_a_photo_is_upright(tmp_path, kind, turn):
    exif = Image.Exif()
    exif[274] = turn
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(stored).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), stored)
    assert measure(path.read_bytes(), path) == ((2, 3), turn)
    # EXIF 2.3, 4.6.4: which side of the scene the first stored row and the first stored column are
    turned = stored.transpose(1, 0, 2) if turn > 4 else stored
    upright = turned[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]
    np.testing.assert_array_equal(read_photo(path), upright)


def test_a_mask_with_an_orientation_is_refused(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    Image.new("L", (4, 4)).save(tmp_path / "a.tif", exif=exif)
    check_error(lambda: read_mask(tmp_path / "a.tif"), tmp_path / "a.tif", "an orientation, 3", "save it as PNG")


def test_a_bitmap_of_8_bits_in_black_and_white_is_refused(tmp_path):
    rows = bytes([0, 1, 1, 0]) * 2
    head = (40).to_bytes(4, "little") + (4).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\1\0\x08\0"
    head += bytes(16) + (2).to_bytes(4, "little") + bytes(4)
    palette = bytes(4) + b"\xff\xff\xff\0"
    start = 14 + len(head) + len(palette)
    whole = b"BM" + (start + len(rows)).to_bytes(4, "little") + bytes(4) + start.to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(whole + head + palette + rows)
    check_error(lambda: read_mask(tmp_path / "a.bmp"), tmp_path / "a.bmp", "BMP of 8 bits", "save it as PNG")


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_damaged_images_are_named(voc_tree, kept):
    path = voc_tree().image("2007_000001")
    path.write_bytes(path.read_bytes()[:kept])
    check_error(lambda: read_image(path), path, "image")


def test_absent_image_is_named(tmp_path):
    check_error(lambda: read_image(tmp_path / "none.jpg"), "none.jpg", "cannot be read")


# ---- masks ----


def test_palette_and_grey_masks_read_alike(voc_tree, make_mask):
    mask = make_mask(0, 1, 20, 255)
    tree = voc_tree(train={"a": mask, "b": mask})
    tree.write_mask("b", mask, palette=False)
    for image_id in ("a", "b"):
        read = read_mask(tree.mask(image_id), mask.shape, ALLOWED)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, mask)


def test_small_palettes_keep_their_ids(tmp_path, make_mask):
    mask = make_mask(0, 1, 2, 3)
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 9, 9, 9, 50, 50, 50, 200, 0, 0])
    image.save(tmp_path / "two_bits.png", bits=2)
    np.testing.assert_array_equal(read_mask(tmp_path / "two_bits.png", mask.shape, ALLOWED), mask)


def test_sixteen_bit_masks(tmp_path):
    mask = np.array([[1, 300], [0, 65535]], np.uint16)
    Image.fromarray(mask).save(tmp_path / "wide.png")
    read = read_mask(tmp_path / "wide.png", (2, 2), {0, 1, 300, 65535})
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, mask)


def test_unusable_masks(tmp_path, make_mask):
    path = tmp_path / "mask.png"
    Image.fromarray(make_mask(0, 1)).save(path)
    check_error(lambda: read_mask(path, (24, 31), ALLOWED), path, "32x24", "31x24")
    check_error(lambda: read_mask(path, (32, 24), ALLOWED), path, "EXIF")
    check_error(lambda: read_mask(path, (24, 32), {0}), path, "id 1 (384 pixels)", "class list")
    Image.fromarray(make_mask(0, 1)).convert("RGB").save(path)
    check_error(lambda: read_mask(path, (24, 32), ALLOWED), path, "RGB", "palette or grey PNG")
    path.write_bytes(path.read_bytes()[:60])
    check_error(lambda: read_mask(path, (24, 32), ALLOWED), path, "mask")


# ---- labels ----


# ---- photographs ----


def test_real_photographs_and_masks_decode(voc_mini):
    config, classes = load_config("voc"), load_shipped_classes("voc")
    source = open_source(config.data, voc_mini)
    assert (len(source.ids("train")), len(source.ids("val"))) == (160, 60)
    for image_id in source.ids("val")[:10]:
        image = read_image(source.image_path(image_id))
        height, width = image.shape[:2]
        mask = read_mask(source.mask_path(image_id), (height, width), {*classes.ids, *classes.ignore})
        assert set(np.unique(all_labels(mask, classes.ids))) <= {*range(20), IGNORE}
