"""A damaged shard never reaches HDF5, whichever byte is wrong; errors of the disk are not called damage."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from split_matching.cache import shard_reader
from split_matching.cache.shard_layout import check_shard, describe_shard
from split_matching.cache.shard_reader import ShardReader, ShardSet
from split_matching.errors import CorruptError, UserError
from tests.cache.example_shards import FIELDS, images, write


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("HDF5 was given a damaged file")


def test_description_has_all_data_and_little_else(tmp_path: Path) -> None:
    arrays = images(200)
    path = write(tmp_path / "a.h5", arrays)
    found = describe_shard(path)
    content = path.read_bytes()
    inside = b"".join(content[start:stop] for start, stop in found["data"])
    for values in (arrays["image_0000_é"], arrays["image_0199_é"]):
        assert values["dense"].tobytes()[:99] in inside
    stored = sum(stop - start for start, stop in found["data"])
    with h5py.File(path) as file:
        assert stored == sum(file[name]["data"].id.get_storage_size() for name in FIELDS)
    assert found["bytes"] == len(content)
    assert found["data"] == sorted(found["data"])
    outside = np.ones(len(content), bool)
    for start, stop in found["data"]:
        outside[start:stop] = False
    assert found["layout"] == hashlib.sha256(np.frombuffer(content, np.uint8)[outside]).hexdigest()


def test_data_may_lie_in_several_ranges(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.h5", b"aaXXbbYYYcc"
    found = {"bytes": 11, "data": [[2, 4], [6, 9]], "layout": hashlib.sha256(b"aabbcc").hexdigest()}
    for place in range(11):
        data = bytearray(whole)
        data[place] ^= 255
        path.write_bytes(data)
        if whole[place : place + 1] in (b"X", b"Y"):
            check_shard(path, found)
        else:
            with pytest.raises(CorruptError):
                check_shard(path, found)


def test_every_byte_outside_of_the_data_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5", images(4))
    whole, found = path.read_bytes(), describe_shard(path)
    inside = np.zeros(len(whole), bool)
    for start, stop in found["data"]:
        inside[start:stop] = True
    monkeypatch.setattr(shard_reader.h5py, "File", never)
    for place in np.flatnonzero(~inside)[::23].tolist():
        data = bytearray(whole)
        data[place] ^= 255
        path.write_bytes(data)
        with pytest.raises(CorruptError, match=r"a\.h5 is truncated or altered") as caught:
            ShardReader(path, found).read("image_0001_é", "dense")
        assert caught.value.damaged == (path,)


def test_altered_data_is_named_when_it_is_read(tmp_path: Path) -> None:
    arrays = images(8)
    path = write(tmp_path / "a.h5", arrays)
    found, data = describe_shard(path), bytearray(path.read_bytes())
    data[data.index(arrays["image_0003_é"]["dense"].tobytes()[:40])] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"a\.h5 is truncated or altered") as caught:
        ShardSet([path], [found]).read("image_0003_é", "dense")
    assert caught.value.damaged == (path,)


def test_file_described_without_a_layout_is_summed_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images(8))
    old = {name: value for name, value in describe_shard(path).items() if name in ("bytes", "sha256")}
    check_shard(path, old)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError):
        check_shard(path, old)
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptError):
        check_shard(path, old)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT])
def test_error_of_the_disk_is_named_and_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = write(tmp_path / "a.h5", images(4))
    found = describe_shard(path)

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(shard_reader, "check_shard", fail)
    with pytest.raises(UserError, match=r"^cannot read .*a\.h5: ") as caught:
        _ = ShardReader(path, found).ids
    assert not isinstance(caught.value, CorruptError)
