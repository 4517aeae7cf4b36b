"""Reading of shards: what went in comes out, damage is noticed, also by further reads, after a fork and in a set."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from split_matching.cache import shard_reader, shard_writer
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_reader import ShardReader, ShardSet
from split_matching.cache.shard_writer import ShardWriter
from split_matching.errors import CorruptError
from tests.cache.example_shards import FIELDS, images, write


def test_ragged_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = images()
    reader = ShardReader(write(tmp_path / "train-00000.h5", arrays))
    assert reader.ids == tuple(arrays)
    assert reader.kind == "test"
    assert reader.attrs == {"patch": 16, "model": "ViT", "scale": 0.5}
    for image_id, values in arrays.items():
        for field, value in values.items():
            got = reader.read(image_id, field)
            assert got.dtype == value.dtype
            assert got.shape == value.shape
            np.testing.assert_array_equal(got, value)


def test_fields_larger_than_a_chunk_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{i}": rng.integers(0, 99, (n, 3), np.int64) for i, n in enumerate((0, 9000, 1, 20000, 0))}
    with ShardWriter(tmp_path / "a.h5", "big", {"x": Field("int64", 1)}) as writer:
        for image_id, array in arrays.items():
            writer.add(image_id, x=array)
    reader = ShardReader(tmp_path / "a.h5")
    for image_id, array in arrays.items():
        np.testing.assert_array_equal(reader.read(image_id, "x"), array)


@pytest.mark.parametrize("kept", [0, 100, 2000, -1])
def test_truncated_file_is_corrupt(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "train-00000.h5", images())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptError, match=r"train-00000\.h5 is truncated or altered"):
        _ = [ShardReader(path).read(image_id, field) for image_id in images() for field in FIELDS]


def test_altered_features_are_corrupt(tmp_path: Path) -> None:
    arrays = images()
    path = write(tmp_path / "a.h5", arrays)
    data = bytearray(path.read_bytes())
    place = data.index(arrays["image_0003_é"]["dense"].tobytes()[:40])
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"a\.h5"):
        ShardReader(path).read("image_0003_é", "dense")


def test_missing_file_is_corrupt_and_unknown_image_is_not(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="is missing"):
        _ = ShardReader(tmp_path / "none.h5").ids
    reader = ShardReader(write(tmp_path / "a.h5", images()))
    with pytest.raises(KeyError, match=r"'nobody' is not in a\.h5"):
        reader.read("nobody", "cls")
    with pytest.raises(KeyError, match="which has cls, dense, embeddings, labels"):
        reader.read("image_0000_é", "none")


def shard_set(tmp_path: Path) -> tuple[ShardSet, dict[str, dict[str, np.ndarray]]]:
    parts = [images(4, first) for first in (0, 4, 8)]
    paths = [write(tmp_path / f"train-{n:05d}.h5", part) for n, part in enumerate(parts)]
    return ShardSet(paths), {image_id: values for part in parts for image_id, values in part.items()}


def test_shard_set_reads_as_one_with_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "OPEN_FILES", 1)
    shards, arrays = shard_set(tmp_path)
    assert shards.ids == tuple(arrays)
    assert len(shards) == 12
    assert "image_0011_é" in shards
    assert "nobody" not in shards
    for image_id in arrays:
        np.testing.assert_array_equal(shards.read(image_id, "dense"), arrays[image_id]["dense"])
        assert sum(reader._file is not None for reader in shards._readers) == 1
    for image_id in reversed(arrays):
        np.testing.assert_array_equal(shards.read(image_id, "dense"), arrays[image_id]["dense"])


def test_second_reads_come_from_the_map_and_equal_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "SMALL_CHUNK_BYTES", 100)
    monkeypatch.setattr(shard_writer, "CHUNK_BYTES", 200)  # arrays of several chunks, and chunks of several arrays
    arrays = images()
    reader = ShardReader(write(tmp_path / "a.h5", arrays))
    first = {(i, f): reader.read(i, f) for i in arrays for f in FIELDS}
    reader.close()
    monkeypatch.setattr(reader, "_handle", lambda: pytest.fail("HDF5 was asked again"))
    for (image_id, field), expected in first.items():
        if not FIELDS[field].compress:
            again = reader.read(image_id, field)
            assert again.dtype == expected.dtype and again.flags.writeable
            np.testing.assert_array_equal(again, expected)


def test_file_that_is_replaced_altered_or_cut_is_noticed_by_second_reads(tmp_path: Path) -> None:
    arrays, others = images(), images(7, 2)
    path = write(tmp_path / "a.h5", arrays)
    reader = ShardReader(path)
    for _ in range(2):
        np.testing.assert_array_equal(reader.read("image_0003_é", "dense"), arrays["image_0003_é"]["dense"])
    write(path, others)  # with other images at other places
    np.testing.assert_array_equal(reader.read("image_0003_é", "dense"), others["image_0003_é"]["dense"])
    assert reader.ids == tuple(others)
    reader.read("image_0003_é", "dense")
    data = bytearray(path.read_bytes())
    data[data.index(others["image_0003_é"]["dense"].tobytes()[:40])] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"a\.h5 is truncated or altered"):
        reader.read("image_0003_é", "dense")
    path.write_bytes(data[: len(data) // 2])  # in place: reading the map there would kill the process
    with pytest.raises(CorruptError, match=r"a\.h5 is truncated or altered"):
        reader.read("image_0003_é", "dense")
    path.unlink()
    with pytest.raises(CorruptError, match="is missing"):
        reader.read("image_0003_é", "dense")


def test_one_image_is_found_without_reading_every_index(tmp_path: Path) -> None:
    arrays = images(16)
    ids = sorted(arrays)
    paths = [write(tmp_path / f"{n}.h5", {i: arrays[i] for i in ids[2 * n : 2 * n + 2]}) for n in range(8)]
    for number, image_id in enumerate(ids):
        shards = ShardSet(paths)
        assert np.array_equal(shards.read(image_id, "dense"), arrays[image_id]["dense"])
        assert sum(reader._index is not None for reader in shards._readers) == 1, number
        assert sum(reader._file is not None for reader in shards._readers) <= 4, number  # log2 of 8, and one
        with pytest.raises(KeyError):
            shards.read(f"{image_id}x", "dense")


def test_shards_in_any_order_are_searched_whole(tmp_path: Path) -> None:
    arrays = images(12)
    ids = sorted(arrays)
    paths = [write(tmp_path / f"{n}.h5", {i: arrays[i] for i in ids[n::4]}) for n in (2, 0, 3, 1)]
    for image_id in ids:
        assert np.array_equal(ShardSet(paths).read(image_id, "dense"), arrays[image_id]["dense"])


def test_shard_set_survives_pickling(tmp_path: Path) -> None:
    shards, arrays = shard_set(tmp_path)
    shards.read("image_0000_é", "cls")
    again = pickle.loads(pickle.dumps(shards))
    np.testing.assert_array_equal(again.read("image_0009_é", "cls"), arrays["image_0009_é"]["cls"])


def test_shard_set_survives_a_fork(tmp_path: Path) -> None:
    shards, arrays = shard_set(tmp_path)
    shards.read("image_0000_é", "cls")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.starmap(shards.read, [(image_id, "dense") for image_id in arrays])
    for got, values in zip(results, arrays.values(), strict=True):
        np.testing.assert_array_equal(got, values["dense"])


def test_field_without_any_row_comes_back_twice(tmp_path: Path) -> None:
    """What a tower without a CLS token gives as the tokens before its patches."""
    with ShardWriter(tmp_path / "a.h5", "test", {"prefix": Field("float16", 1)}) as writer:
        for image_id in "ab":
            writer.add(image_id, prefix=np.zeros((0, 8), np.float16))
    reader = ShardReader(tmp_path / "a.h5")
    assert [reader.read("b", "prefix").shape for _ in range(2)] == [(0, 8)] * 2
