"""PNG files of any colour type and bit depth, packed by hand from the PNG specification: independent of Pillow."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def png(samples: np.ndarray, colour_type: int, depth: int, palette: bytes = b"") -> bytes:
    """Return a PNG.

    Args:
        samples: (H, W, channels) or (H, W) stored values, below 2 ** depth.
        colour_type: one of the constants above.
        depth: bits of a sample: 1, 2, 4, 8 or 16.
        palette: RGB triples.
    """
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    packed = b"".join(b"\0" + _pack(row.tolist(), depth) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks if chunk[1] or chunk[0] == b"IEND")


def _pack(row: list[int], depth: int) -> bytes:
    bits = "".join(format(value, f"0{depth}b") for value in row)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
