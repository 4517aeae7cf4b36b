"""Shard files: what goes in comes out, damage is noticed, and equal inputs give equal bytes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from split_matching.cache import shard_reader as h5
from split_matching.cache.shard_reader import Field, ShardReader, ShardSet, ShardWriter
from split_matching.errors import CorruptError, UserError

FIELDS = {
    "dense": Field("float16", 2),
    "labels": Field("uint8", 2, compress=True),
    "embeddings": Field("float16", 1),
    "cls": Field("float16", 0),
}


def images(count: int = 12, first: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of `count` images of different sizes, every third without regions."""
    rng = np.random.default_rng(first)
    found = {}
    for i in range(first, first + count):
        height, width = (int(n) for n in rng.integers(2, 30, 2))
        found[f"image_{i:04d}_é"] = {
            "dense": rng.normal(size=(height, width, 24)).astype(np.float16),
            "labels": rng.integers(0, 9, (2 * height, 2 * width)).astype(np.uint8),
            "embeddings": rng.normal(size=(i % 3, 8)).astype(np.float16),
            "cls": rng.normal(size=8).astype(np.float16),
        }
    return found


def write(path: Path, arrays: dict[str, dict[str, np.ndarray]]) -> Path:
    with ShardWriter(path, "test", FIELDS, {"patch": 16, "model": "ViT", "scale": 0.5}) as writer:
        for image_id, values in arrays.items():
            writer.add(image_id, **values)
    return path


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


def test_plain_h5py_reads_it_as_documented(tmp_path: Path) -> None:
    arrays = images()
    path = write(tmp_path / "a.h5", arrays)
    with h5py.File(path) as f:
        i = f["ids"].asstr()[:].tolist().index("image_0005_é")
        rows = f["dense/data"][f["dense/offsets"][i] : f["dense/offsets"][i + 1]]
        dense = rows.reshape(*f["dense/shape"][i], -1)
    np.testing.assert_array_equal(dense, arrays["image_0005_é"]["dense"])


def test_equal_inputs_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.cache.test_shards import *;write(Path(sys.argv[1]), images())"
    )
    for number, path in enumerate((tmp_path / "a.h5", tmp_path / "b.h5")):
        environment = {**os.environ, "MALLOC_PERTURB_": str(85 * number + 1), "PYTHONHASHSEED": str(number)}
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=root, env=environment)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "a.h5").read_bytes() == write(tmp_path / "c.h5", images()).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls": np.full(8, np.nan)}, "'z', field 'cls': contains NaN"),
        ({"cls": np.full(8, np.inf)}, "infinity"),
        ({"cls": np.full(8, 1e6)}, "beyond the range of float16"),
        ({"cls": np.array([0, 0, 0, 0, -np.inf, 0, 0, 0], np.float16)}, "infinity"),
        ({"cls": np.array([0, 0, 0, 0, -np.nan, 0, 0, 0], np.float16)}, "contains NaN"),
        ({"labels": np.full((2, 2), 256, np.uint16)}, "beyond the range of uint8"),
        ({"labels": np.zeros((2, 2), np.int64)}, "does not fit uint8"),
        ({"cls": np.zeros(9)}, "trailing shape"),
        ({"dense": np.zeros(3)}, "fewer than 2 axes"),
        ({"other": np.zeros(3)}, "expected"),
    ],
)
def test_unusable_arrays_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = images(1)["image_0000_é"]
    with pytest.raises(ValueError, match=message), ShardWriter(tmp_path / "a.h5", "test", FIELDS) as writer:
        writer.add("a", **good)
        writer.add("z", **{**good, **change})
    assert list(tmp_path.iterdir()) == []


def test_ids_must_ascend(tmp_path: Path) -> None:
    good = images(1)["image_0000_é"]
    with pytest.raises(ValueError, match="ascend"), ShardWriter(tmp_path / "a.h5", "test", FIELDS) as writer:
        writer.add("b", **good)
        writer.add("a", **good)


def test_failed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images())
    before = path.read_bytes()
    with pytest.raises(RuntimeError), ShardWriter(path, "test", FIELDS) as writer:
        writer.add("a", **images(1)["image_0000_é"])
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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
    monkeypatch.setattr(h5, "OPEN_FILES", 1)
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
    monkeypatch.setattr(h5, "SMALL_CHUNK_BYTES", 100)
    monkeypatch.setattr(h5, "CHUNK_BYTES", 200)  # arrays of several chunks, and chunks of several arrays
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
    arrays = images(32)
    ids = sorted(arrays)
    paths = [write(tmp_path / f"{n:02}.h5", {i: arrays[i] for i in ids[2 * n : 2 * n + 2]}) for n in range(16)]
    for number, image_id in enumerate(ids):
        shards = ShardSet(paths)
        assert np.array_equal(shards.read(image_id, "dense"), arrays[image_id]["dense"])
        assert sum(reader._index is not None for reader in shards._readers) == 1, number
        assert sum(reader._file is not None for reader in shards._readers) <= 5, number  # log2 of 16, and one
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


def _write_with_little_room(path: Path, queue: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    try:
        write(path, images(60))
    except UserError as error:
        queue.put(str(error))


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_write_with_little_room, args=(tmp_path / "a.h5", queue))
    process.start()
    message = queue.get(timeout=30)
    process.join()
    assert process.exitcode == 0
    assert "cannot write" in message
    assert "file too large" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_field_without_any_row_comes_back_twice(tmp_path: Path) -> None:
    """What a tower without a CLS token gives as the tokens before its patches."""
    with ShardWriter(tmp_path / "a.h5", "test", {"prefix": Field("float16", 1)}) as writer:
        for image_id in "ab":
            writer.add(image_id, prefix=np.zeros((0, 8), np.float16))
    reader = ShardReader(tmp_path / "a.h5")
    assert [reader.read("b", "prefix").shape for _ in range(2)] == [(0, 8)] * 2


def test_every_half_is_told_finite_or_not() -> None:
    """All 65,536 bit patterns, alone and among others."""
    halves = np.arange(65536, dtype=np.uint32).astype("<u2").view("<f2")
    assert [h5._all_finite(halves[i : i + 1]) for i in range(len(halves))] == np.isfinite(halves).tolist()
    assert h5._all_finite(halves[np.isfinite(halves)]) and not h5._all_finite(halves)
    assert h5._all_finite(halves[:0].reshape(0, 3))
