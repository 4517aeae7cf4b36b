"""The HDF5 files of the cache: one file a shard, written once, in a documented and versioned layout.

Schema 1, for N images whose ids ascend strictly:

    attributes of /         schema (1), kind ("features", ...), and what the stage adds (numbers and strings)
    /ids           (N,)     UTF-8 strings of fixed length
    /digests       (N, 32)  uint8: sha256 over the image's arrays, field by field in name order
    /<field>       group with the attribute lead (L)
      data         (total, *trail)  all images one after the other, leading axes flattened
      offsets      (N + 1,)  int64: image i has the rows offsets[i] : offsets[i + 1]
      shape        (N, L)    int64: its leading axes, with prod(shape[i]) rows; absent when L is 0

With plain h5py, the 2-d field `dense` of image i (each image has its own height and width) is
`f["dense/data"][f["dense/offsets"][i]:f["dense/offsets"][i + 1]].reshape(*f["dense/shape"][i], -1)`.

Equal inputs give equal bytes in whatever process: no times, fixed-length ids, whole chunks written in order. Every
chunk carries a Fletcher-32 sum, so that a flipped bit is an error and not a number. Ragged arrays are flat with
offsets, not a group an image: a read then costs one slice. Source: choice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import secrets
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.shard_map import Layout, MappedFile
from split_matching.errors import CorruptError, UserError

SCHEMA = 1
CHUNK_BYTES = 1 << 19  # where images are large: an image's features then lie in a few pieces
SMALL_CHUNK_BYTES = 1 << 17  # elsewhere, as files hold whole chunks; and compressed, as a read unpacks whole chunks
OPEN_FILES = 16  # files that one ShardSet keeps open in a process
AttrValue = int | float | str


@dataclass(frozen=True)
class Field:
    """One array an image.

    Args:
        dtype: NumPy name, e.g. "float16", "uint8".
        lead: number of leading axes that differ from image to image: 0 for (*trail), 1 for (n, *trail), 2 for
            (h, w, *trail). The trailing axes are the same for all images of a file.
        compress: gzip with byte shuffle; for label maps. Float features do not compress.
    """

    dtype: str
    lead: int
    compress: bool = False


class _Column:
    """The growing datasets of one field while a file is written. Buffers rows so that only whole chunks are written."""

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
        _index(self.group, "offsets", np.asarray(self.offsets, np.int64))
        if self.field.lead:
            _index(self.group, "shape", np.asarray(self.shapes, np.int64).reshape(-1, self.field.lead))

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


def _index(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True, track_times=False)


class _Sink(io.RawIOBase):
    """The file that HDF5 writes to. A refusal of the operating system is kept, not raised.

    HDF5 cannot close a file that it failed to write to, and crashes the process when it tries; so it is told that all
    went well, and the writer asks for the error itself.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first refusal, if there was one."""
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

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@dataclass(frozen=True)
class CheckedImage:
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
    """Writes one shard file; use it as a context manager.

    Writes to a temporary file beside the target, and renames it into place when the block ends without an exception, so
    that the target is never half a file.

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
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._columns: dict[str, _Column] = {}
        self._sink: _Sink | None = None
        self._file: h5py.File | None = None

    def __enter__(self) -> Self:
        with explain_disk_errors(self.path):
            self._sink = _Sink(self._temporary)
            self._file = h5py.File(self._sink, "w", libver=("earliest", "v110"))
            self._file.attrs["schema"] = SCHEMA
            self._file.attrs["kind"] = self.kind
            for name, value in self.attrs.items():
                self._file.attrs[name] = value
            for name, field in self.fields.items():
                group = self._file.create_group(name)
                group.attrs["lead"] = field.lead
                self._columns[name] = _Column(group, field)
        return self

    def add(self, image_id: str, **arrays: NDArray[Any]) -> None:
        """Append one image.

        Args:
            image_id: greater than the id before it.
            **arrays: one array for every field, shape (*lead, *trail). Cast to the field's dtype within its kind.

        Raises:
            ValueError: a field is missing or unknown, or an array has the wrong shape, dtype, range, or NaN or
                infinity in it; names the image and the field.
        """
        self.append(self.checked(image_id, arrays))

    def checked(self, image_id: str, arrays: Mapping[str, NDArray[Any]]) -> CheckedImage:
        """Do what can be done before it is the image's turn, in any thread; raises as `add`."""
        if not image_id or "\0" in image_id:
            raise ValueError(f"image id {image_id!r} is empty or holds a NUL")
        if arrays.keys() != self.fields.keys():
            raise ValueError(f"image {image_id!r}: fields {sorted(arrays)}, expected {sorted(self.fields)}")
        digest = hashlib.sha256()
        cast = {}
        for name, field in self.fields.items():
            with _named(image_id, name):
                array = cast[name] = _checked(np.asarray(arrays[name]), field)
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data if array.size else b"")
        return CheckedImage(image_id, cast, digest.digest())

    def append(self, image: CheckedImage) -> None:
        """Append an image that was checked, by one thread at a time; raises as `add`."""
        if self._file is None or self._sink is None:
            raise RuntimeError("ShardWriter.append outside of its with block")
        if self.ids and image.id <= self.ids[-1]:
            raise ValueError(f"image {image.id!r} after {self.ids[-1]!r}: ids of a shard ascend and do not repeat")
        with explain_disk_errors(self.path):
            for name, array in image.arrays.items():
                with _named(image.id, name):
                    self._columns[name].add(array)
            self._sink.check()
        self.ids.append(image.id)
        self._digests.append(image.digest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._file is not None:
                self._file.close()
            if self._sink is not None:
                self._sink.close()
            self._file = self._sink = None
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        assert self._file is not None
        assert self._sink is not None
        if not self.ids:
            raise ValueError(f"no image was added to {self.path.name}")
        with explain_disk_errors(self.path):
            for column in self._columns.values():
                column.finish()
            # fixed length: variable-length strings live in a heap whose bytes are not ours to determine
            encoded = [image_id.encode() for image_id in self.ids]
            dtype = h5py.string_dtype("utf-8", max(map(len, encoded)))
            _index(self._file, "ids", np.array(encoded, dtype=dtype))
            _index(self._file, "digests", np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32))
            self._file.close()
            self._file = None
            self._sink.check()
            self._sink.sync()
            self._temporary.replace(self.path)


def _checked(array: NDArray[Any], field: Field) -> NDArray[Any]:
    """Return `array` contiguous and in the field's dtype, little-endian; refuse what would lose its meaning."""
    dtype = np.dtype(field.dtype).newbyteorder("<")
    if array.ndim < field.lead:
        raise ValueError(f"shape {array.shape} has fewer than {field.lead} axes")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"dtype {array.dtype} does not fit {field.dtype}")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype).reshape(array.shape)  # ascontiguousarray makes 0-d arrays 1-d
    if dtype.kind == "f":
        if not _all_finite(cast):
            bad = "NaN" if np.isnan(array).any() else f"infinity, or values beyond the range of {field.dtype}"
            raise ValueError(f"contains {bad}")
    elif cast.dtype.itemsize < array.dtype.itemsize and not np.array_equal(cast, array):
        raise ValueError(f"values beyond the range of {field.dtype}")
    return cast


def _all_finite(array: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    if array.dtype != np.dtype("<f2"):
        return bool(np.isfinite(array).all())
    # by the exponent's bits: NumPy looks at halves one by one, which takes 17 times as long
    return not array.size or bool((array.view("<u2") & 0x7C00).max() != 0x7C00)


@contextlib.contextmanager
def _named(image_id: str, field: str) -> Iterator[None]:
    """Say of which image and field a ValueError is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"image {image_id!r}, field {field!r}: {error}") from None


class ShardReader:
    """Reads one shard file. Opens it on first use, again in every process, and survives pickling and forks.

    The first read of an array in a process goes through HDF5, which checks its sums; further ones are a copy from the
    mapped file (see `cache.shard_map`), unless it is compressed.

    Raises (from every member):
        CorruptError: the file is absent, truncated, altered or not a shard of this schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._pid = 0
        self._index: _Index | None = None
        self._bounds: tuple[str, str] | None = None
        self._mapped: MappedFile | None = None
        self._sums_checked: dict[str, _SumsChecked] = {}

    @property
    def kind(self) -> str:
        """What the file holds."""
        return self._loaded().kind

    @property
    def attrs(self) -> dict[str, AttrValue]:
        """The attributes that the stage added."""
        return self._loaded().attrs

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids, ascending."""
        return self._loaded().ids

    @property
    def bounds(self) -> tuple[str, str] | None:
        """First and last image id; None without any. Costs a fraction of the whole index, which it does not read."""
        if self._bounds is None:
            with self._as_corrupt():
                ids = self._handle()["ids"][:]
                self._bounds = (ids[0].decode(), ids[-1].decode()) if len(ids) else None
        return self._bounds

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the arrays."""
        if self._index is not None:
            return tuple(self._index.offsets)
        with self._as_corrupt():
            return tuple(_fields_of(self._handle()))

    @property
    def digests(self) -> NDArray[np.uint8]:
        """One sha256 an image. Shape: (N, 32) uint8."""
        return self._loaded().digests

    def read(self, image_id: str, field: str) -> NDArray[Any]:
        """Return one image's array. Shape: (*lead, *trail), in the field's dtype."""
        if self._mapped is not None and not self._mapped.current():
            self.close()
            self._index, self._bounds, self._mapped, self._sums_checked = None, None, None, {}
        index = self._loaded()
        if image_id not in index.row:
            raise KeyError(f"image {image_id!r} is not in {self.path.name}")
        if field not in index.offsets:
            raise KeyError(f"field {field!r} is not in {self.path.name}, which has {', '.join(index.offsets)}")
        row = index.row[image_id]
        start, stop, shapes = index.offsets[field][row], index.offsets[field][row + 1], index.shapes[field]
        rows = self._read_again(field, row, start, stop)
        if rows is None:
            with self._as_corrupt():
                data = self._handle()[f"{field}/data"]
                rows = data[start:stop]
                self._remember(field, row, data)
        return rows.reshape(*(shapes[row] if shapes is not None else ()), *rows.shape[1:])

    def _read_again(self, field: str, row: int, start: int, stop: int) -> NDArray[Any] | None:
        """Rows whose sums were checked before."""
        checked = self._sums_checked.get(field)
        if self._mapped is None or checked is None or not checked.images[row]:
            return None
        return self._mapped.read(checked.layout, start, stop)

    def _remember(self, field: str, row: int, data: h5py.Dataset) -> None:
        """Note that the sums of an image's rows are right."""
        if data.compression is not None:
            return
        if field not in self._sums_checked:
            self._sums_checked[field] = _SumsChecked(_layout(data), np.zeros(len(self.ids), np.bool_))
        self._sums_checked[field].images[row] = True

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _handle(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self.close()  # a handle from before a fork shares its file position with the parent
            if self._mapped is None:
                # before HDF5 opens it: if the file is replaced in between, the map is the older of the two, and goes
                self._mapped = MappedFile(self.path)
            self._file = h5py.File(self.path, "r", locking=False)
            self._pid = os.getpid()
        return self._file

    def _loaded(self) -> _Index:
        if self._index is None:
            with self._as_corrupt():
                self._index = _Index.load(self._handle())
        return self._index

    @contextlib.contextmanager
    def _as_corrupt(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
            self.close()
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.EACCES, errno.ENFILE):
                raise UserError(f"cannot open {self.path}: {os.strerror(error.errno).lower()}") from error
            reason = "is missing" if not self.path.exists() else "is truncated or altered"
            raise CorruptError(f"{self.path} {reason}: run `verify`, then the stage again") from error


@dataclass(frozen=True)
class _SumsChecked:
    """Of which images the sums of one field were found right, and where its rows lie."""

    layout: Layout
    images: NDArray[np.bool_]


def _layout(data: h5py.Dataset) -> Layout:
    """Where the chunks of an uncompressed dataset lie."""
    places: dict[int, int] = {}
    data.id.chunk_iter(lambda info: places.__setitem__(info.chunk_offset[0], info.byte_offset))
    return Layout([places[row] for row in sorted(places)], data.chunks[0], data.shape[1:], data.dtype)


@dataclass(frozen=True)
class _Index:
    """The small datasets of a shard, checked against each other."""

    kind: str
    attrs: dict[str, AttrValue]
    ids: tuple[str, ...]
    row: dict[str, int]
    digests: NDArray[np.uint8]
    # plain numbers: a read looks up three of them, and NumPy's scalars take longer
    offsets: dict[str, list[int]]
    shapes: dict[str, list[tuple[int, ...]] | None]

    @staticmethod
    def load(file: h5py.File) -> _Index:
        if int(file.attrs["schema"]) != SCHEMA:
            raise ValueError(f"schema {file.attrs['schema']}, expected {SCHEMA}")
        ids = tuple(raw.decode() for raw in file["ids"][:])
        digests = file["digests"][:]
        offsets: dict[str, list[int]] = {}
        shapes: dict[str, list[tuple[int, ...]] | None] = {}
        for name in _fields_of(file):
            group = file[name]
            offset = group["offsets"][:]
            shape = group["shape"][:] if int(group.attrs["lead"]) else None
            counts = np.ones(len(ids), np.int64) if shape is None else shape.prod(axis=1)
            if len(offset) != len(ids) + 1 or offset[0] != 0 or not np.array_equal(np.diff(offset), counts):
                raise ValueError(f"offsets of {name} do not fit its shapes")
            if group["data"].shape[0] != offset[-1]:
                raise ValueError(f"{name} has {group['data'].shape[0]} rows, expected {offset[-1]}")
            offsets[name] = offset.tolist()
            shapes[name] = None if shape is None else [tuple(row) for row in shape.tolist()]
        if digests.shape != (len(ids), 32):
            raise ValueError("digests do not fit the ids")
        attrs = {name: _plain(value) for name, value in file.attrs.items() if name not in ("schema", "kind")}
        row = {image_id: i for i, image_id in enumerate(ids)}
        return _Index(str(file.attrs["kind"]), attrs, ids, row, digests, offsets, shapes)


def _fields_of(file: h5py.File) -> list[str]:
    return sorted(name for name in file if name not in ("ids", "digests"))


def _plain(value: Any) -> AttrValue:
    plain: AttrValue = value.item() if isinstance(value, np.generic) else value
    return plain


class ShardSet:
    """All shards of one split, read as one: `shards.read(image_id, "dense")`.

    Picklable and safe across forks (for data loaders): files are opened on first use in each process, the most recently
    used ones stay open.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._readers = [ShardReader(path) for path in self.paths]
        self._open: OrderedDict[int, None] = OrderedDict()
        self._where: dict[str, int] = {}  # shards of the images that were asked for, or of all
        self._complete = False

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids of all shards, in shard order."""
        return tuple(self._located())

    @property
    def attrs(self) -> dict[str, AttrValue]:
        """Attributes of the first shard; all shards of a stage have the same."""
        return self._readers[0].attrs

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return self._readers[0].fields

    def read(self, image_id: str, field: str) -> NDArray[Any]:
        """Return one image's array. Shape: (*lead, *trail).

        Raises:
            KeyError: no such image or field.
            CorruptError: the shard is damaged.
        """
        index = self._where.get(image_id)
        if index is None and not self._complete:
            index = self._searched(image_id)
            if index is None:
                index = self._located().get(image_id)
            else:
                self._where[image_id] = index
        if index is None:
            raise KeyError(f"image {image_id!r} is not in the {len(self.paths)} shards of {self.paths[0].parent}")
        return self._use(index).read(image_id, field)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._located()

    def __len__(self) -> int:
        return len(self._located())

    def close(self) -> None:
        """Close all files; the next read opens what it needs."""
        for reader in self._readers:
            reader.close()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def _use(self, index: int) -> ShardReader:
        self._open[index] = None
        self._open.move_to_end(index)
        while len(self._open) > OPEN_FILES:
            oldest, _ = self._open.popitem(last=False)
            self._readers[oldest].close()
        return self._readers[index]

    def _searched(self, image_id: str) -> int | None:
        """Find the shard of an image by bisection, as ids ascend from shard to shard; None if it is not found so.

        A stage's task reads the images of one shard: it need not open all of them, and of those it looks into not read
        the whole index (6 ms for features, nearly what EmbedRegions takes for an image of `shapes`).
        """
        low, high = 0, len(self._readers)
        while low < high:
            middle = (low + high) // 2
            bounds = self._use(middle).bounds
            if bounds is None:
                return None
            if bounds[0] <= image_id <= bounds[1]:
                ids = self._readers[middle].ids
                return middle if ids[bisect_left(ids, image_id)] == image_id else None
            low, high = (middle + 1, high) if image_id > bounds[1] else (low, middle)
        return None

    def _located(self) -> dict[str, int]:
        if not self._complete:
            self._where = {i: n for n in range(len(self._readers)) for i in self._use(n).ids}
            self._complete = True
        return self._where
