"""Reads an array of numbers from a MATLAB file, version 5 to 7.2. Damaged bytes end in an error, whatever they are.

SciPy's reader trusts the sizes and types in a file, and ends the process (SIGSEGV) on some that are wrong.

Source: "MAT-File Format" (MathWorks, R2023b), chapter 1. Choice: little-endian only, as written on every usual machine.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from split_matching.errors import DataError

HEADER = 128
MOST_BYTES = 2**26
"""Far more than any mask has; a made-up file of some kilobytes may unpack to gigabytes."""

INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
"""Types of elements that hold numbers. A matrix of doubles may hold a smaller type."""
STRUCT, NUMERIC, COMPLEX = 2, range(6, 16), 0x08
"""Classes of matrices, and a bit beside the class."""


def read_matlab(data: bytes, where: str, variable: str, field: str | None = None) -> NDArray[np.generic]:
    """Read one array of numbers.

    Args:
        data: the bytes of the file.
        where: how errors name it.
        variable: the name of the array, or of a struct.
        field: the name of the array in the struct.

    Returns:
        The array, of the type in which its numbers are stored.

    Raises:
        DataError: not such a file, it is damaged, or it has no such array.
    """
    wanted = variable if field is None else f"{variable}.{field}"
    try:
        return _read(memoryview(data), variable, field)
    except (ValueError, zlib.error) as error:
        raise DataError(f"{where}: cannot be read ({error}); expected a MATLAB file with {wanted}") from None


def _read(data: memoryview, variable: str, field: str | None) -> NDArray[np.generic]:
    if len(data) < HEADER or data[124:128] != b"\x00\x01IM":
        raise ValueError("not a MATLAB file of version 5")
    for kind, content in _elements(data[HEADER:]):
        if kind == COMPRESSED:
            kind, content = next(_elements(_unpack(content)), (0, content))
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} where a variable was expected")
        kind, shape, name, parts = _open_matrix(content)
        if name == variable.encode():
            if field is not None:
                kind, shape, _, parts = _open_matrix(_field(kind, shape, parts, field.encode()))
            return _numbers(kind, shape, parts)
    raise ValueError(f"no variable {variable}")


def _unpack(data: memoryview) -> memoryview:
    stream = zlib.decompressobj()
    content = stream.decompress(data, MOST_BYTES)
    if not stream.eof:
        raise ValueError(f"a variable is cut off, or has more than {MOST_BYTES:,} bytes")
    return memoryview(content)


Elements = Iterator[tuple[int, memoryview]]


def _elements(data: memoryview) -> Elements:
    """Yield type and content of the elements that follow each other in `data`."""
    place = 0
    while place < len(data):
        kind, size = (int.from_bytes(data[p : p + 4], "little") for p in (place, place + 4))
        start, step = place + 8, 8 + size
        if kind >> 16:  # a small element: size and type in four bytes, then at most four of content
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
        if start + size > min(len(data), place + step):
            raise ValueError("an element is longer than what holds it")
        yield kind, data[start : start + size]
        place += step if kind == COMPRESSED else step + -step % 8


def _take(parts: Elements, kind: int) -> memoryview:
    found, content = next(parts, (0, memoryview(b"")))
    if found != kind:
        raise ValueError(f"an element of type {found} where type {kind} was expected")
    return content


def _open_matrix(data: memoryview) -> tuple[int, tuple[int, ...], bytes, Elements]:
    """Return class (with the bit for complex numbers), shape and name of a matrix, and the elements that follow."""
    parts = _elements(data)
    flags = _take(parts, UINT32)
    if len(flags) != 8:
        raise ValueError("a matrix without a class")
    shape = tuple(np.frombuffer(_take(parts, INT32), "<i4").tolist())
    return flags[0] | (flags[1] & COMPLEX) << 8, shape, bytes(_take(parts, INT8)), parts


def _field(kind: int, shape: tuple[int, ...], parts: Elements, name: bytes) -> memoryview:
    """Return the matrix that is a field of a struct."""
    if kind != STRUCT or shape != (1, 1):
        raise ValueError("no struct of one element")
    length = int.from_bytes(_take(parts, INT32), "little")
    names = bytes(_take(parts, INT8))
    if not 0 < length <= 64:
        raise ValueError(f"names of fields with {length} bytes")
    fields = [names[place : place + length].rstrip(b"\0") for place in range(0, len(names), length)]
    if name not in fields:
        raise ValueError(f"no field {name.decode()}")
    return _take(islice(parts, fields.index(name), None), MATRIX)


def _numbers(kind: int, shape: tuple[int, ...], parts: Elements) -> NDArray[np.generic]:
    stored, content = next(parts, (0, memoryview(b"")))
    if kind not in NUMERIC or stored not in NUMBERS:
        raise ValueError("no array of real numbers")
    if min(shape, default=-1) < 0 or math.prod(shape) * np.dtype(NUMBERS[stored]).itemsize != len(content):
        raise ValueError(f"{len(content):,} bytes of numbers in an array of {shape}")
    return np.frombuffer(content, NUMBERS[stored]).reshape(shape, order="F")
