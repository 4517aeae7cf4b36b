"""Rows of an uncompressed HDF5 dataset straight from the file: a read then costs one copy in memory.

HDF5 checks every chunk's Fletcher-32 checksum on every read, which takes longer than the copy. So `shard_reader` reads
an image through HDF5 once in a process, and from here when it is read again and the file is still the same one.
Source: choice.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChunkTable:
    """Where the chunks of one dataset lie in its file.

    Args:
        offsets: of every chunk, in bytes from the start of the file, in the order of the rows.
        rows: number of rows in a chunk.
        trail: shape of a row.
        dtype: of the elements.
    """

    offsets: list[int]
    rows: int
    trail: tuple[int, ...]
    dtype: np.dtype[Any]

    @cached_property
    def row_bytes(self) -> int:
        """Size of a row."""
        return self.dtype.itemsize * math.prod(self.trail)


class MappedFile:
    """A file mapped into memory, as it is now; the file descriptor is not kept.

    Args:
        path: a file that is not empty.

    Raises:
        OSError, ValueError: it cannot be opened or mapped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._stamp = _stamp(os.fstat(stream.fileno()))
            self._bytes = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def is_current(self) -> bool:
        """Whether the path still leads to the same file, unchanged.

        Do not read otherwise: where the file was cut off, that would kill the process.
        """
        try:
            return _stamp(self._path.stat()) == self._stamp
        except OSError:
            return False

    def read(self, chunks: ChunkTable, start: int, stop: int) -> NDArray[Any]:
        """Copy the rows start : stop of a dataset. Shape: (stop - start, *trail)."""
        out = np.empty((stop - start, *chunks.trail), chunks.dtype)
        filled, size = out.reshape(-1).view(np.uint8), chunks.row_bytes
        row = start
        while row < stop:
            chunk, skipped = divmod(row, chunks.rows)
            end = min(stop, row + chunks.rows - skipped)
            place = chunks.offsets[chunk] + skipped * size
            filled[(row - start) * size : (end - start) * size] = self._bytes[place : place + (end - row) * size]
            row = end
        return out


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
