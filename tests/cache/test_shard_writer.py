"""Writing of shards: equal bytes for equal inputs, the documented layout; errors name the image and leave nothing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from split_matching.cache import shard_writer
from split_matching.cache.shard_writer import ShardWriter
from split_matching.errors import UserError
from tests.cache.example_shards import FIELDS, images, write


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
        "import sys; from pathlib import Path; from tests.cache.example_shards import images, write;"
        "write(Path(sys.argv[1]), images())"
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
def test_unusable_arrays_are_errors_that_name_the_image(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = images(1)["image_0000_é"]
    with pytest.raises(ValueError, match=message), ShardWriter(tmp_path / "a.h5", "test", FIELDS) as writer:
        writer.add("a", **good)
        writer.add("z", **{**good, **change})
    assert list(tmp_path.iterdir()) == []


def test_integers_of_a_wider_type_are_stored_if_their_values_fit(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [7, 8, 9]], np.uint16)
    path = write(tmp_path / "a.h5", {"a": {**images(1)["image_0000_é"], "labels": labels}})
    with h5py.File(path) as f:
        assert f["labels/data"].dtype == np.uint8 and f["labels/data"][:].tolist() == [0, 1, 255, 7, 8, 9]


@pytest.mark.parametrize("second", ["a", "b"])
def test_ids_ascend_and_do_not_repeat(tmp_path: Path, second: str) -> None:
    good = images(1)["image_0000_é"]
    with pytest.raises(ValueError, match="ascend"), ShardWriter(tmp_path / "a.h5", "test", FIELDS) as writer:
        writer.add("b", **good)
        writer.add(second, **good)


def test_failed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images())
    before = path.read_bytes()
    with pytest.raises(RuntimeError), ShardWriter(path, "test", FIELDS) as writer:
        writer.add("a", **images(1)["image_0000_é"])
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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


def test_every_half_is_finite_or_not() -> None:
    """All 65,536 bit patterns, alone and among others."""
    halves = np.arange(65536, dtype=np.uint32).astype("<u2").view("<f2")
    assert [shard_writer._is_finite(halves[i : i + 1]) for i in range(len(halves))] == np.isfinite(halves).tolist()
    assert shard_writer._is_finite(halves[np.isfinite(halves)]) and not shard_writer._is_finite(halves)
    assert shard_writer._is_finite(halves[:0].reshape(0, 3))
