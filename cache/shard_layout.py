"""A shard is checked before HDF5 parses it: the C library may crash on a damaged file, and take the process along.

HDF5 checks a checksum of every chunk of data when it reads that, but not of what says where the data lies. So the
digest of everything but the data (a few kB) is taken when a shard is written, and compared when it is opened: opening
a shard of 800 MB then costs no more than one of 1 MB. Source: choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from split_matching.cache.keys import file_sha256, known_sha256
from split_matching.cache.shard_format import field_names
from split_matching.errors import CorruptError


def describe_shard(path: Path) -> dict[str, Any]:
    """Return what `check_shard` compares with, of a shard that was just written.

    Returns:
        JSON values: size and sha256 of the file, where the data lies (start and stop in bytes), and the sha256 of
        everything else.
    """
    whole, data = file_sha256(path), _find_data(path)
    return {"bytes": path.stat().st_size, "sha256": whole, "data": data, "layout": _sha256_without(path, data)}


def check_shard(path: Path, expected: Mapping[str, Any]) -> None:
    """Reject a shard that HDF5 must not see. What was written before there was a layout is read whole, once a process.

    Args:
        path: the file.
        expected: what `describe_shard` said.

    Raises:
        CorruptError: it is not as it was written; names the file.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size == expected["bytes"]:
        if "layout" not in expected:
            intact = known_sha256(path) == expected["sha256"]
        else:
            intact = _sha256_without(path, expected["data"]) == expected["layout"]
        if intact:
            return
    raise CorruptError(f"{path} is truncated or altered: run `verify`, then the stage again", path)


def _find_data(path: Path) -> list[list[int]]:
    """Return where the chunks of the images' arrays lie, neighbours joined."""
    places: list[tuple[int, int]] = []
    with h5py.File(path, "r", locking=False) as file:
        for name in field_names(file):
            file[name]["data"].id.chunk_iter(lambda chunk: places.append((chunk.byte_offset, chunk.size)))
    joined: list[list[int]] = []
    for start, size in sorted(places):
        if joined and joined[-1][1] == start:
            joined[-1][1] = start + size
        else:
            joined.append([start, start + size])
    return joined


def _sha256_without(path: Path, data: Sequence[Sequence[int]]) -> str:
    """Return the sha256 of a file's bytes outside of some ranges, which ascend."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        place = 0
        for start, stop in data:
            stream.seek(place)
            digest.update(stream.read(start - place))
            place = stop
        stream.seek(place)
        digest.update(stream.read())
    return digest.hexdigest()
