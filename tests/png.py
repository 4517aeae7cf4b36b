"""PNG files of any colour type and bit depth, packed and unpacked by hand from the specification, without Pillow."""

from __future__ import annotations

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, and the steps of the seven passes of an interlaced file: PNG specification, section 8.2."""


def png(
    samples: np.ndarray, colour_type: int, depth: int, palette: bytes = b"", interlaced: bool = False, more: bytes = b""
) -> bytes:
    """Return a PNG.

    Args:
        samples: (H, W, channels) or (H, W) stored values, below 2 ** depth.
        colour_type: one of the constants above.
        depth: bits of a sample: 1, 2, 4, 8 or 16.
        palette: RGB triples.
        interlaced: store the rows in seven passes.
        more: chunks to put before the palette.
    """
    height, width = samples.shape[:2]
    passes = [samples[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [samples]
    rows = [row for part in passes if part.size for row in part.reshape(len(part), -1)]
    packed = b"".join(b"\0" + pack_row(row.tolist(), depth) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    colours = chunk(b"PLTE", palette) if palette else b""
    body = chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + colours + body


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def unpack(data: bytes) -> np.ndarray:
    """Return the stored samples of a PNG that is not interlaced: (H, W), or (H, W, channels)."""
    width, height, depth, colour_type = struct.unpack(">IIBB", data[16:26])
    assert data[28] == 0, "interlaced"
    place, body = 8, b""
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        body += data[place + 8 : place + 8 + size] if kind == b"IDAT" else b""
        place += 12 + size
    bits = CHANNELS[colour_type] * depth
    step, pixel = -(-width * bits // 8), max(1, bits // 8)
    raw, above, rows = zlib.decompress(body), bytearray(step), []
    for start in range(0, height * (step + 1), step + 1):
        line = bytearray(raw[start + 1 : start + 1 + step])
        _unfilter(raw[start], line, above, pixel)
        rows.append(line)
        above = line
    packed = np.frombuffer(b"".join(rows), np.uint8).reshape(height, step)
    if depth == 16:
        samples = packed.view(">u2").astype(np.int64)
    else:
        each = np.unpackbits(packed, axis=1)[:, : width * bits].reshape(height, -1, depth)
        samples = each.astype(np.int64) @ (1 << np.arange(depth)[::-1])
    return samples.reshape((height, width, -1) if CHANNELS[colour_type] > 1 else (height, width))


def _unfilter(kind: int, line: bytearray, above: bytearray, pixel: int) -> None:
    """Undo the filter of a row in place: PNG specification, section 9.2."""
    for at in range(len(line)):
        a, b, c = (line[at - pixel], above[at], above[at - pixel]) if at >= pixel else (0, above[at], 0)
        nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        line[at] = (line[at] + (0, a, b, (a + b) // 2, nearest)[kind]) % 256


def pack_row(row: list[int], depth: int) -> bytes:
    """Return the samples of a row, packed into bytes."""
    bits = "".join(format(value, f"0{depth}b") for value in row)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
