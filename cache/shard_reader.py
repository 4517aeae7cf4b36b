"""Reading of shards, see `cache.shard_format` for the layout: one file, or all files of a split as one."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from split_matching.cache.disk_errors import explain_read_error
from split_matching.cache.memory_map import ChunkTable, MappedFile
from split_matching.cache.shard_format import DIGESTS, IDS, SCHEMA, AttrValue, field_names
from split_matching.cache.shard_layout import check_shard
from split_matching.errors import CorruptError

OPEN_FILES = 16  # files that one ShardSet keeps open in a process


class ShardReader:
    """Reads one shard file. Opens it on first use, again in every process, and survives pickling and forks.

    The first read of an array in a process goes through HDF5, which checks its checksums. Further ones are a copy from
    the file in memory (see `cache.memory_map`), unless the array is compressed.

    Args:
        path: the file.
        expected: what the manifest says of it; a file that is not so is not shown to HDF5. None for a file of unknown
            origin, which HDF5 is trusted with.

    Raises (from every member):
        CorruptError: the file is absent, truncated, altered or not a shard of this schema.
    """

    def __init__(self, path: Path, expected: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._expected = expected
        self._file: h5py.File | None = None
        self._pid = 0
        self._index: _Index | None = None
        self._bounds: tuple[str, str] | None = None
        self._mapped: MappedFile | None = None
        self._checked: dict[str, _Checked] = {}

    @property
    def kind(self) -> str:
        """What the file holds."""
        return self._get_index().kind

    @property
    def attrs(self) -> dict[str, AttrValue]:
        """The attributes that the stage added."""
        return self._get_index().attrs

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids, ascending."""
        return self._get_index().ids

    @property
    def bounds(self) -> tuple[str, str] | None:
        """First and last image id; None without any. Costs a fraction of the whole index, which it does not read."""
        if self._bounds is None:
            with self._explain_errors():
                ids = self._handle()[IDS][:]
                self._bounds = (ids[0].decode(), ids[-1].decode()) if len(ids) else None
        return self._bounds

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the arrays."""
        if self._index is not None:
            return tuple(self._index.offsets)
        with self._explain_errors():
            return tuple(field_names(self._handle()))

    @property
    def digests(self) -> NDArray[np.uint8]:
        """One sha256 an image. Shape: (N, 32) uint8."""
        return self._get_index().digests

    def read(self, image_id: str, field: str) -> NDArray[Any]:
        """Return one image's array. Shape: (*lead, *trail), in the field's dtype."""
        if self._mapped is not None and not self._mapped.is_current():
            self.close()
            self._index, self._bounds, self._mapped, self._checked = None, None, None, {}
        index = self._get_index()
        if image_id not in index.row:
            raise KeyError(f"image {image_id!r} is not in {self.path.name}")
        if field not in index.offsets:
            raise KeyError(f"field {field!r} is not in {self.path.name}, which has {', '.join(index.offsets)}")
        row = index.row[image_id]
        start, stop, shapes = index.offsets[field][row], index.offsets[field][row + 1], index.shapes[field]
        rows = self._read_mapped(field, row, start, stop)
        if rows is None:
            with self._explain_errors():
                data = self._handle()[f"{field}/data"]
                rows = data[start:stop]
                self._note_checked(field, row, data)
        return rows.reshape(*(shapes[row] if shapes is not None else ()), *rows.shape[1:])

    def _read_mapped(self, field: str, row: int, start: int, stop: int) -> NDArray[Any] | None:
        """Return rows from the file in memory; None if their checksums were not checked yet."""
        checked = self._checked.get(field)
        if self._mapped is None or checked is None or not checked.images[row]:
            return None
        return self._mapped.read(checked.chunks, start, stop)

    def _note_checked(self, field: str, row: int, data: h5py.Dataset) -> None:
        """Note that the checksums of an image's rows are right."""
        if data.compression is not None:
            return
        if field not in self._checked:
            self._checked[field] = _Checked(_find_chunks(data), np.zeros(len(self.ids), np.bool_))
        self._checked[field].images[row] = True

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "expected": self._expected}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["expected"])  # type: ignore[misc]

    def _handle(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self.close()  # a handle from before a fork shares its file position with the parent
            if self._mapped is None:
                if self._expected is not None:
                    check_shard(self.path, self._expected)
                # before HDF5 opens the file: if it is replaced in between, the next read finds this map outdated
                self._mapped = MappedFile(self.path)
            self._file = h5py.File(self.path, "r", locking=False)
            self._pid = os.getpid()
        return self._file

    def _get_index(self) -> _Index:
        if self._index is None:
            with self._explain_errors():
                self._index = _Index.load(self._handle())
        return self._index

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
            self.close()
            if isinstance(error, OSError) and (explained := explain_read_error(error, self.path)):
                raise explained from error
            reason = "is missing" if not self.path.exists() else "is truncated or altered"
            raise CorruptError(f"{self.path} {reason}: run `verify`, then the stage again", self.path) from error


@dataclass(frozen=True)
class _Checked:
    """The images whose checksums of one field were found right, and where the field's chunks lie."""

    chunks: ChunkTable
    images: NDArray[np.bool_]


def _find_chunks(data: h5py.Dataset) -> ChunkTable:
    """Return where the chunks of an uncompressed dataset lie."""
    places: dict[int, int] = {}
    data.id.chunk_iter(lambda info: places.__setitem__(info.chunk_offset[0], info.byte_offset))
    return ChunkTable([places[row] for row in sorted(places)], data.chunks[0], data.shape[1:], data.dtype)


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
        ids = tuple(raw.decode() for raw in file[IDS][:])
        digests = file[DIGESTS][:]
        offsets: dict[str, list[int]] = {}
        shapes: dict[str, list[tuple[int, ...]] | None] = {}
        for name in field_names(file):
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


def _plain(value: Any) -> AttrValue:
    plain: AttrValue = value.item() if isinstance(value, np.generic) else value
    return plain


class ShardSet:
    """All shards of one split, read as one: `shards.read(image_id, "dense")`.

    Picklable and safe across forks (for data loaders): files are opened on first use in each process, the most recently
    used ones stay open.

    Args:
        paths: the files, in the order of their images.
        expected: what the manifest says of each, see `ShardReader`.
    """

    def __init__(self, paths: Sequence[Path], expected: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.paths = tuple(paths)
        self._expected = expected
        entries: list[Mapping[str, Any] | None] = [*expected] if expected else [None for _ in paths]
        self._readers = [ShardReader(*pair) for pair in zip(paths, entries, strict=True)]
        self._open: OrderedDict[int, None] = OrderedDict()
        self._where: dict[str, int] = {}  # shard by image: of those that were read, or of all
        self._complete = False

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids of all shards, in shard order."""
        return tuple(self._locate_all())

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
            index = self._search(image_id)
            if index is None:
                index = self._locate_all().get(image_id)
            else:
                self._where[image_id] = index
        if index is None:
            raise KeyError(f"image {image_id!r} is not in the {len(self.paths)} shards of {self.paths[0].parent}")
        return self._use(index).read(image_id, field)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._locate_all()

    def __len__(self) -> int:
        return len(self._locate_all())

    def close(self) -> None:
        """Close all files; the next read opens what it needs."""
        for reader in self._readers:
            reader.close()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "expected": self._expected}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"], state["expected"])  # type: ignore[misc]

    def _use(self, index: int) -> ShardReader:
        self._open[index] = None
        self._open.move_to_end(index)
        while len(self._open) > OPEN_FILES:
            oldest, _ = self._open.popitem(last=False)
            self._readers[oldest].close()
        return self._readers[index]

    def _search(self, image_id: str) -> int | None:
        """Find the shard of an image by bisection, as ids ascend from shard to shard; None if it is not found so.

        A stage's task reads the images of one shard. So it opens few of the others, and does not read their whole index
        (6 ms for features, nearly what EmbedRegions takes for an image of `shapes`).
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

    def _locate_all(self) -> dict[str, int]:
        if not self._complete:
            self._where = {i: n for n in range(len(self._readers)) for i in self._use(n).ids}
            self._complete = True
        return self._where
