"""Writing of shards, see `cache.shard_format` for the layout."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.files import atomic_write
from split_matching.cache.shard_format import DIGESTS, IDS, SCHEMA, AttrValue, Field

CHUNK_BYTES = 1 << 19  # where images are large: an image's features then lie in a few pieces
SMALL_CHUNK_BYTES = 1 << 17  # elsewhere, as files hold whole chunks; and compressed, as a read unpacks whole chunks


@dataclass(frozen=True)
class PreparedImage:
    """One image's arrays as they will be in the file.

    Args:
        id: of the image.
        arrays: by field, in the field's dtype.
        digest: sha256 over them.
    """

    id: str
    arrays: Mapping[str, NDArray[Any]]
    digest: bytes


class ShardWriter:
    """Writes one shard; use it as a context manager.

    The file appears when the block ends without an exception, so that it is never half a file.

    Args:
        path: the file to make; its folder exists.
        kind: what the file holds, e.g. "features".
        fields: the arrays of every image.
        attrs: further attributes of the file: numbers and strings that are the same for all shards.

    Raises:
        UserError: the disk is full or cannot be written.
    """

    def __init__(
        self, path: Path, kind: str, fields: Mapping[str, Field], attrs: Mapping[str, AttrValue] | None = None
    ) -> None:
        if not fields:
            raise ValueError("a shard needs at least one field")
        self.path = path
        self.kind = kind
        self.fields = dict(sorted(fields.items()))
        self.attrs = dict(sorted((attrs or {}).items()))
        self.ids: list[str] = []
        self._digests: list[bytes] = []
        self._columns: dict[str, _Column] = {}
        self._output: _Output | None = None
        self._context = self._open()

    def __enter__(self) -> Self:
        with explain_disk_errors(self.path):
            self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # of the block, so not to be explained here
            self._context.__exit__(kind, error, trace)
            return
        with explain_disk_errors(self.path):
            self._context.__exit__(None, None, None)

    def add(self, image_id: str, **arrays: NDArray[Any]) -> None:
        """Append one image.

        Args:
            image_id: greater than the id before it.
            **arrays: one array for every field, shape (*lead, *trail). Cast to the field's dtype within its kind.

        Raises:
            ValueError: a field is missing or unknown, or an array has the wrong shape, dtype, range, or NaN or
                infinity in it; names the image and the field.
        """
        self.append(self.prepare(image_id, arrays))

    def prepare(self, image_id: str, arrays: Mapping[str, NDArray[Any]]) -> PreparedImage:
        """Check an image and compute its digest. Any thread may do so, in any order; raises as `add`."""
        if not image_id or "\0" in image_id:
            raise ValueError(f"image id {image_id!r} is empty or holds a NUL")
        if arrays.keys() != self.fields.keys():
            raise ValueError(f"image {image_id!r}: fields {sorted(arrays)}, expected {sorted(self.fields)}")
        digest = hashlib.sha256()
        cast = {}
        for name, field in self.fields.items():
            with _name_image(image_id, name):
                array = cast[name] = _cast(np.asarray(arrays[name]), field)
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data if array.size else b"")
        return PreparedImage(image_id, cast, digest.digest())

    def append(self, image: PreparedImage) -> None:
        """Append a prepared image, by one thread at a time; raises as `add`."""
        if self._output is None:
            raise RuntimeError("ShardWriter.append outside of its with block")
        if self.ids and image.id <= self.ids[-1]:
            raise ValueError(f"image {image.id!r} after {self.ids[-1]!r}: ids of a shard ascend and do not repeat")
        with explain_disk_errors(self.path):
            for name, array in image.arrays.items():
                with _name_image(image.id, name):
                    self._columns[name].add(array)
            self._output.check()
        self.ids.append(image.id)
        self._digests.append(image.digest)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with atomic_write(self.path) as temporary, contextlib.closing(_Output(temporary)) as output:
            with h5py.File(output, "w", libver=("earliest", "v110")) as file:
                self._start(file)
                self._output = output
                try:
                    yield
                finally:
                    self._output = None
                self._finish(file)
            output.check()

    def _start(self, file: h5py.File) -> None:
        file.attrs["schema"] = SCHEMA
        file.attrs["kind"] = self.kind
        for name, value in self.attrs.items():
            file.attrs[name] = value
        for name, field in self.fields.items():
            group = file.create_group(name)
            group.attrs["lead"] = field.lead
            self._columns[name] = _Column(group, field)

    def _finish(self, file: h5py.File) -> None:
        if not self.ids:
            raise ValueError(f"no image was added to {self.path.name}")
        for column in self._columns.values():
            column.finish()
        # fixed length: variable-length strings lie in a heap, whose bytes HDF5 does not promise
        encoded = [image_id.encode() for image_id in self.ids]
        dtype = h5py.string_dtype("utf-8", max(map(len, encoded)))
        _write_index(file, IDS, np.array(encoded, dtype=dtype))
        _write_index(file, DIGESTS, np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32))


class _Column:
    """The growing datasets of one field. Buffers rows so that only whole chunks are written."""

    def __init__(self, group: h5py.Group, field: Field) -> None:
        self.group = group
        self.field = field
        self.data: h5py.Dataset | None = None
        self.trail: tuple[int, ...] = ()
        self.offsets = [0]
        self.shapes: list[tuple[int, ...]] = []
        self._buffer: list[NDArray[Any]] = []
        self._buffered = 0

    def add(self, array: NDArray[Any]) -> None:
        """Append one image's array; the dtype is right already."""
        lead, trail = array.shape[: self.field.lead], array.shape[self.field.lead :]
        if self.data is None:
            self._create(trail, array)
        elif trail != self.trail:
            raise ValueError(f"trailing shape {trail}, expected {self.trail} as in the file's first image")
        rows = math.prod(lead)
        self.shapes.append(lead)
        self.offsets.append(self.offsets[-1] + rows)
        self._buffer.append(array.reshape(rows, *trail))
        self._buffered += rows
        whole = self._buffered - self._buffered % self._chunk
        if whole:
            self._write(whole)

    def finish(self) -> None:
        """Write what is left, and the index."""
        if self._buffered:
            self._write(self._buffered)
        _write_index(self.group, "offsets", np.asarray(self.offsets, np.int64))
        if self.field.lead:
            _write_index(self.group, "shape", np.asarray(self.shapes, np.int64).reshape(-1, self.field.lead))

    def _create(self, trail: tuple[int, ...], first: NDArray[Any]) -> None:
        self.trail = trail
        row = first.dtype.itemsize * math.prod(trail)
        large = first.nbytes > SMALL_CHUNK_BYTES and not self.field.compress
        self._chunk = max(1, (CHUNK_BYTES if large else SMALL_CHUNK_BYTES) // max(1, row))
        filters: dict[str, Any] = {"compression": "gzip", "shuffle": True} if self.field.compress else {}
        self.data = self.group.create_dataset(
            "data",
            shape=(0, *trail),
            maxshape=(None, *trail),
            chunks=(self._chunk, *(max(1, n) for n in trail)),
            dtype=first.dtype,
            fletcher32=True,
            track_times=False,
            **filters,
        )

    def _write(self, rows: int) -> None:
        assert self.data is not None
        block = np.concatenate(self._buffer) if len(self._buffer) > 1 else self._buffer[0]
        start = self.data.shape[0]
        self.data.resize(start + rows, axis=0)
        self.data[start:] = block[:rows]
        rest = block[rows:]
        self._buffer = [rest.copy()] if len(rest) else []
        self._buffered = len(rest)


def _write_index(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True, track_times=False)


class _Output(io.RawIOBase):
    """The file that HDF5 writes to. An error of the file system is kept, not raised.

    HDF5 cannot close a file that it failed to write to, and crashes the process when it tries; so it is told that all
    went well, and the writer asks for the error itself.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of `data` at the present position."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self._error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        return size

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the present position."""
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        assert size is not None
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def _cast(array: NDArray[Any], field: Field) -> NDArray[Any]:
    """Return an array contiguous and in the field's dtype, little-endian.

    Raises:
        ValueError: the array would lose its meaning.
    """
    dtype = np.dtype(field.dtype).newbyteorder("<")
    if array.ndim < field.lead:
        raise ValueError(f"shape {array.shape} has fewer than {field.lead} axes")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"dtype {array.dtype} does not fit {field.dtype}")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype).reshape(array.shape)  # ascontiguousarray makes 0-d arrays 1-d
    if dtype.kind == "f":
        if not _is_finite(cast):
            bad = "NaN" if np.isnan(array).any() else f"infinity, or values beyond the range of {field.dtype}"
            raise ValueError(f"contains {bad}")
    elif cast.dtype.itemsize < array.dtype.itemsize and not np.array_equal(cast, array):
        raise ValueError(f"values beyond the range of {field.dtype}")
    return cast


def _is_finite(array: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    if array.dtype != np.dtype("<f2"):
        return bool(np.isfinite(array).all())
    # by the exponent's bits: NumPy looks at halves one by one, which takes 17 times as long
    return not array.size or bool((array.view("<u2") & 0x7C00).max() != 0x7C00)


@contextlib.contextmanager
def _name_image(image_id: str, field: str) -> Iterator[None]:
    """Add the image and the field to a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"image {image_id!r}, field {field!r}: {error}") from None
