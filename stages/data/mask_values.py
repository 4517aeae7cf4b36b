"""The values that a mask file stores, whatever its bit depth; Pillow alone scales some and truncates others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.errors import DataError

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of a TIFF."""

Values = NDArray[np.uint8] | NDArray[np.uint16]


class ColouredError(DataError):
    """A mask that holds colours, not ids."""


def stored_values(image: Image.Image, data: bytes, path: Path) -> Values:
    """Return the palette indices or grey values of a decoded mask as the file stores them.

    Args:
        image: the decoded mask.
        data: the bytes of its file.
        path: for errors only.

    Returns:
        (H, W) values, uint8, or uint16 for a file of more than 8 bits.

    Raises:
        ColouredError: its pixels have colours.
        DataError: its values are no whole numbers of up to 16 bits.
    """
    if image.mode == "P":
        return np.array(image, dtype=np.uint8)
    depth, inverted = _depth(image, data)
    if image.mode in ("1", "L"):
        values = np.array(image, dtype=np.uint8)
        if image.mode == "L" and depth < 8:
            values //= 255 // (2**depth - 1)  # Pillow spreads grey values of 2 and 4 bits over 0..255
        return np.asarray((2 ** min(depth, 8) - 1) - values if inverted else values)
    if image.mode.startswith("I"):
        return _as_16_bits(np.array(image), path)
    if image.mode == "F":
        numbers = np.array(image)
        if not (np.isfinite(numbers).all() and np.array_equal(numbers, np.floor(numbers))):
            raise DataError(f"{path}: the mask has fractions; expected class ids: save whole numbers as PNG")
        return _as_16_bits(numbers, path)
    raise ColouredError(
        f"{path}: the mask has pixels of mode {image.mode}; expected class ids, as a palette or grey PNG: "
        f"{_remedy(image)}"
    )


def stored_colours(image: Image.Image, data: bytes, path: Path) -> NDArray[np.uint32]:
    """Return the colours of a decoded mask, 0xRRGGBB: a palette's colours, and grey as three equal channels.

    Args:
        image: the decoded mask.
        data: the bytes of its file.
        path: for errors only.

    Raises:
        DataError: it has more than 8 bits a channel, or colours that nobody sees as they are transparent.
    """
    if image.mode[0] in "IF" or _depth(image, data)[0] > 8:
        raise DataError(f"{path}: the mask has more than 8 bits a channel; expected colours of 8 bits: save it so")
    channels = np.array(image.convert("RGBA")).astype(np.uint32)
    found = np.asarray(channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2])
    if image.mode != "P" and (found * (channels[..., 3] < 255)).any():
        raise DataError(f"{path}: the mask has transparent colours; expected opaque ones: save it without transparency")
    return found


def stored_palette(image: Image.Image) -> list[int]:
    """Return the colour of each palette index of a decoded mask as a number, 0xRRGGBB; none where it has no palette."""
    colours = iter((image.getpalette("RGB") if image.mode == "P" else None) or [])
    return [red << 16 | green << 8 | blue for red, green, blue in zip(colours, colours, colours, strict=True)]


def check_lossless(image: Image.Image, data: bytes, path: Path) -> None:
    """Check that no compression has changed the values of a mask.

    Raises:
        DataError: it may have.
    """
    kind = {"JPEG": "a JPEG", "MPO": "a JPEG", "JPEG2000": "a JPEG 2000"}.get(image.format or "", "")
    if image.format == "TIFF" and str(image.info.get("compression")) in ("jpeg", "tiff_jpeg", "webp"):
        kind = "a TIFF that is compressed as a JPEG"
    if image.format == "WEBP" and _is_lossy_webp(data):
        kind = "a lossy WebP"
    if kind:
        raise DataError(f"{path}: the mask is {kind}, which smears ids; expected a PNG: export the masks again as PNG")


def _is_lossy_webp(data: bytes) -> bool:
    """Whether a WebP has a chunk of lossy pixels, maybe behind metadata or in a frame. Source: RFC 9649, section 2."""
    start = 12
    while start + 8 <= len(data):
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if kind == b"VP8 ":
            return True
        start += 24 if kind == b"ANMF" else 8 + size + size % 2  # a frame has 16 bytes of its own, then chunks
    return False


def _depth(image: Image.Image, data: bytes) -> tuple[int, bool]:
    """Bits of a sample in the file, and whether the file stores white as 0, which Pillow turns round."""
    if image.format == "PNG":
        return data[24], False  # of the header: PNG specification, 11.2.2
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return int(tags.get(BITS_PER_SAMPLE, (1,))[0]), tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return (1 if image.mode == "1" else 8), False


def _as_16_bits(values: NDArray[np.generic], path: Path) -> Values:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        outside = wide.min() if wide.min() < 0 else wide.max()
        raise DataError(
            f"{path}: the mask has the value {outside}; expected class ids of 0 to 65535: save what is no class as 255"
        )
    return wide.astype(np.uint16)


def _remedy(image: Image.Image) -> str:
    """What to do about a mask that has colours, or seems to."""
    if image.mode in ("LA", "RGBA"):
        *colours, alpha = np.moveaxis(np.array(image), -1, 0)
        if all((channel == channel[0, 0]).all() for channel in colours):
            return "its alpha channel alone has values, so save that as a grey PNG"
        if image.mode == "LA" and not (alpha == alpha[0, 0]).all():
            return "it has two channels, so save that of the ids as a grey PNG"
    channels = np.array(image.convert("RGB"))
    if (channels == channels[..., :1]).all():
        return "its channels are equal, so save one of them as a grey PNG"
    if not channels[..., 1:].any():
        return "its red channel alone has values, so save that as a grey PNG"
    return "give the id of each colour: data.colours, of the layout folder"
