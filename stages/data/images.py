"""Decode images, and masks into the ids of the class list."""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.configs.colour_table import unpack
from split_matching.errors import DataError
from split_matching.stages.data.folder_files import describe_bytes
from split_matching.stages.data.mask_values import Values, check_lossless, stored_colours, stored_palette, stored_values
from split_matching.stages.ground.budget import Budget

VOID = 255
"""Id of pixels whose value may not occur, see `translate`."""

MAX_PIXELS = 2**27
"""An image of more is an error, before it is decoded: a small file may claim sizes that fill any memory (choice)."""

MAX_BYTES = 8 * MAX_PIXELS
"""A file of more is an error, before it is read: as many pixels of four 16-bit channels need (choice)."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000")
"""What is decoded, whatever a file's name says. Pillow knows more: it hands EPS files to another program."""

ORIENTATION = 0x0112
"""EXIF tag."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, how stored pixels are turned to be upright."""

_BACK = {**TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

TURN = "as `exiftran -ai` or `mogrify -auto-orient` does"
"""How an image's pixels are turned as its EXIF orientation says."""

SUBFILE, OVERVIEW_OR_ALPHA = 254, 1 | 4
"""Tag of a page of a TIFF, and its bits where the page belongs to another one: a smaller copy, or its alpha."""

MOST_PAGES = 100
"""Pages of a mask that are looked at (choice)."""

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns, on stderr; `_load_image` has the limit
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged metadata; what matters becomes an error here

_BUDGET = Budget(MAX_PIXELS)

Table = Sequence[int] | Mapping[int, int]
"""The class list's id of each value of a mask file; or of each colour, 0xRRGGBB, see `Source.mask_table`."""


def read_bytes(path: Path) -> bytes:
    """The bytes of an image or mask file.

    Raises:
        DataError: the file is absent, is too large, is a pipe or a device, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe may wait for ever
            raise DataError(f"{path}: not a regular file; expected an image: remove it")
        if found.st_size > MAX_BYTES:
            raise DataError(f"{path}: {found.st_size:,} bytes; expected {MAX_BYTES:,} at most: make the image smaller")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file") from None


def open_image(data: bytes) -> Image.Image:
    """Read the header of an image, in one of `FORMATS`; any exception means that it is damaged or none of them."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a decoded image: 1 (upright) to 8; 1 where the EXIF data is absent or damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds for damaged metadata
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file.

    The pixels are those stored: an EXIF orientation is not applied (choice), because VOC's masks align with the stored
    pixels. Grey, palette, CMYK and 16-bit files become 8-bit RGB; transparency is dropped, as in CLIP's preprocessing.

    Args:
        path: a JPEG or PNG file.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: absent, truncated, not an image, or of a pixel type with no fixed range.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the bytes of an image; see `read_image`. `path` is for errors only."""
    return decode_with_orientation(data, path)[0]


def decode_with_orientation(data: bytes, path: Path) -> tuple[NDArray[np.uint8], int]:
    """Decode the bytes of an image as `decode_image` does; return the pixels and the orientation that EXIF gives."""
    with _load_image(data, path, "image") as image:
        return to_rgb(image, path), orientation(image)


def measure(data: bytes, path: Path) -> tuple[tuple[int, int], int]:
    """Decode the bytes of an image for its size alone; return (H, W) and the orientation that EXIF gives."""
    with _load_image(data, path, "image") as image:
        if image.mode != "RGB":
            to_rgb(image, path)  # an error where pixels have no fixed range
        return (image.height, image.width), orientation(image)


def to_rgb(image: Image.Image, name: Path | str) -> NDArray[np.uint8]:
    """Return the pixels of any mode as (H, W, 3) uint8; see `read_image`. `name` is for errors only."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips instead of scaling.
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError(f"{name}: pixels of 32 bits have no fixed range; save the image with 8 or 16 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    # `convert` would copy what is RGB already
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def read_mask(
    path: Path,
    shape: tuple[int, int] | None = None,
    allowed_ids: Collection[int] | None = None,
    table: Table | None = None,
) -> Values:
    """Decode an index mask: a PNG whose palette index or grey value is the raw class id.

    Args:
        path: the mask file.
        shape: (H, W) of its image, in pixels; None for a mask that PrepareDataset has checked.
        allowed_ids: ids of the class list that may occur, ignored ones too; None for a mask that PrepareDataset has
            checked.
        table: the class list's id of each value of the file, see `Source.mask_table`; None where they are the same.

    Returns:
        (H, W) ids of the class list, uint8, or uint16 for a 16-bit file.

    Raises:
        DataError: absent, truncated, coloured, of another size than the image, or with an id that is not allowed.
    """
    return decode_mask(read_bytes(path), path, shape, allowed_ids, table)


def decode_mask(
    data: bytes,
    path: Path,
    shape: tuple[int, int] | None = None,
    allowed_ids: Collection[int] | None = None,
    table: Table | None = None,
) -> Values:
    """Decode the bytes of a mask; see `read_mask`. `path` is for errors only."""
    mask = decode_values(data, path, shape, table)
    if allowed_ids is not None:
        allowed = set(allowed_ids)
        there = [int(value) for value in np.unique(mask)]
        unknown = [value for value in there if class_id(value, table) not in allowed]
        if unknown:
            raise DataError(
                f"{path}: {name_value(unknown[0], table)} ({int((mask == unknown[0]).sum())} pixels) is not in the "
                f"class list; {_explain_value(path, table)}"
            )
    return mask if table is None else translate(mask, table)


def _explain_value(path: Path, table: Table | None) -> str:
    """What to do about a value that may not occur."""
    if isinstance(table, Mapping):
        return "correct the mask, or add it to data.colours, with an id of `classes` or `ignore` of the class list"
    if table is not None:
        return "such masks have none of it: use those that were published"
    if path.name.endswith("labelIds.png"):
        return "label ids of Cityscapes are no train ids: use the files *_labelTrainIds.png"
    return "correct the mask, or add the id to `classes` or `ignore` of the class list"


def class_id(value: int, table: Table | None) -> int:
    """Return the class list's id of a value of a mask file, see `Source.mask_table`; -1 if it may not occur."""
    if table is None:
        return value
    if isinstance(table, Mapping):
        return table.get(value, -1)
    return table[value] if value < len(table) else -1


def name_value(value: int, table: Table | None) -> str:
    """Return a value of a mask file as errors name it: "id 7", or "colour (128, 64, 0)"."""
    return f"colour {unpack(value)}" if isinstance(table, Mapping) else f"id {value}"


def translate(mask: NDArray[Any], table: Table) -> NDArray[Any]:
    """Replace the values of a mask file by the class list's ids; values that may not occur become void, 255.

    Args:
        mask: (H, W) values of the file.
        table: the class list's id of each value, as of `Source.mask_table`.

    Returns:
        (H, W) ids, of the same type, or for colours uint8, or uint16 where an id needs it.
    """
    if isinstance(table, Mapping):
        colours = np.array(sorted(table), np.uint32)
        ids = np.array([table[colour] for colour in colours.tolist()])
        places = np.searchsorted(colours, mask).clip(max=len(colours) - 1)
        found = np.where(colours[places] == mask, ids[places], VOID)
        return found.astype(np.uint8 if ids.max() < 256 else np.uint16)
    whole = np.full(np.iinfo(mask.dtype).max + 1, VOID, dtype=mask.dtype)
    known = np.asarray(table, dtype=np.int64)
    whole[: len(known)] = np.where(known < 0, VOID, known).astype(mask.dtype)
    found = whole[mask]
    return np.asarray(found)


def decode_values(
    data: bytes, path: Path, shape: tuple[int, int] | None = None, table: Table | None = None
) -> NDArray[Any]:
    """Decode the bytes of a mask into the values of the file, or its colours for a table of these; see `read_mask`.

    Returns:
        (H, W) values, whatever they mean: uint8, uint16 for a file of more bits, uint32 0xRRGGBB for colours.
    """
    mask = decode_with_palette(data, path, table)[0]
    if shape is not None:
        check_size(mask, shape, path)
    return mask


def decode_with_palette(data: bytes, path: Path, table: Table | None = None) -> tuple[NDArray[Any], list[int]]:
    """Decode the bytes of a mask as `decode_values` does; return the values and the palette, see `stored_palette`."""
    with _load_image(data, path, "mask") as image:
        check_lossless(image, data, path)  # before pages: the photograph of a phone may have several
        _check_one_page(image, data, path)
        if isinstance(table, Mapping):
            return stored_colours(image, data, path), []
        return stored_values(image, data, path), stored_palette(image)


def _check_one_page(image: Image.Image, data: bytes, path: Path) -> None:
    """Raise for a second page or frame of a mask; smaller copies of the first one, as GeoTIFFs have, do not count."""
    with open_image(data) as pages:  # the decoded image would lose its pixels
        last = pages.n_frames if image.format == "PNG" else MOST_PAGES  # type: ignore[attr-defined]
        for number in range(1, last):
            try:
                pages.seek(number)
            except EOFError:
                return
            if not int(getattr(pages, "tag_v2", {}).get(SUBFILE, 0)) & OVERVIEW_OR_ALPHA:
                raise DataError(f"{path}: the mask has several pages; expected one: save the page with the ids as PNG")


def check_size(mask: NDArray[Any], shape: tuple[int, int], path: Path) -> None:
    """Check that a mask has the size of its image, (H, W) pixels.

    Raises:
        DataError: it has another one.
    """
    if mask.shape != tuple(shape):
        remedy = "replace one of them"
        if mask.T.shape == tuple(shape):
            remedy = f"does the image have an EXIF orientation? It is not applied: turn the image's pixels, {TURN}"
        raise DataError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} but its image is {shape[1]}x{shape[0]}; {remedy}"
        )


def _turn_back(image: Image.Image, turned: int, path: Path, what: str) -> Image.Image:
    """Return the pixels of a TIFF as they are stored: Pillow alone turns those of a TIFF as its orientation says."""
    if what == "mask":
        raise DataError(f"{path}: the mask has an orientation, {turned}; expected upright pixels: save it as PNG")
    stored = image.transpose(_BACK[turned])
    stored.getexif()[ORIENTATION] = turned
    return stored


@contextmanager
def _load_image(data: bytes, path: Path, what: str) -> Iterator[Image.Image]:
    """Decode every pixel, so that a truncated file is found now; what is done with the image has the same guard."""
    if not data:
        raise DataError(f"{path}: the {what} file is empty; restore it or remove its id from the split")
    try:
        with open_image(data) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ValueError(f"it claims {image.width}x{image.height} pixels; expected {MAX_PIXELS:,} at most")
            if image.format == "BMP" and image.mode == "1" and data[28] > 1:  # of the header: bits a pixel
                raise DataError(f"{path}: a BMP of {data[28]} bits in black and white is not read; save it as PNG")
            turned = orientation(image) if image.format == "TIFF" else 1
            with _BUDGET.take(pixels):
                image.load()
                yield image if turned == 1 else _turn_back(image, turned, path, what)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any exception for damaged bytes
        reason = " ".join(str(error).split())
        if "cannot identify" in reason:
            reason = describe_bytes(data)
            if ";" not in reason:
                reason += f": expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(
            f"{path}: the {what} cannot be decoded ({reason or type(error).__name__}); "
            "restore the file or remove its id from the split"
        ) from None
