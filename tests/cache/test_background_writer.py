"""Writing in the background: the same bytes, errors that arrive, memory that is bounded, and no thread left."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.cache.background_writer import BackgroundWriter
from split_matching.cache.shard_writer import PreparedImage, ShardWriter
from tests.cache.example_shards import FIELDS, images, write

ATTRS = {"patch": 16, "model": "ViT", "scale": 0.5}


def write_in_background(path: Path, arrays: dict[str, dict[str, np.ndarray]], **options: int) -> Path:
    with ShardWriter(path, "test", FIELDS, ATTRS) as writer, BackgroundWriter(writer, **options) as background:
        for image_id, values in arrays.items():
            background.add(image_id, **values)
    return path


@pytest.mark.parametrize("ahead", [1, 16])
def test_bytes_are_those_of_writing_in_the_foreground(tmp_path: Path, ahead: int) -> None:
    some = images(40)
    assert (
        write_in_background(tmp_path / "b.h5", some, ahead=ahead).read_bytes()
        == write(tmp_path / "a.h5", some).read_bytes()
    )


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, {"cls": np.full(8, np.nan)}, "field 'cls': contains NaN"),
        (20, {"cls": np.full(8, np.nan)}, "field 'cls': contains NaN"),
        (
            39,
            {"dense": np.full((2, 2, 24), np.inf)},
            "field 'dense': contains infinity",
        ),  # raised at the end of the block
        (20, {"cls": np.zeros(9)}, "trailing shape"),
        (20, {"other": np.zeros(3)}, "expected"),
    ],
)
def test_errors_are_raised_and_leave_nothing(tmp_path: Path, place: int, change: dict[str, Any], message: str) -> None:
    some = images(40)
    name = sorted(some)[place]
    some[name] = {**some[name], **change}
    before = threading.active_count()
    with pytest.raises(ValueError, match=message) as caught:
        write_in_background(tmp_path / "a.h5", some)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == [] and threading.active_count() == before


def test_nothing_is_added_after_an_error(tmp_path: Path) -> None:
    some = images(3)
    names = sorted(some)
    with pytest.raises(ValueError, match="ascend"), ShardWriter(tmp_path / "a.h5", "test", FIELDS) as writer:
        try:
            with BackgroundWriter(writer) as background:
                for name in (names[1], names[0], names[2]):
                    background.add(name, **some[name])
        finally:
            assert writer.ids == [names[1]]


def test_an_error_of_the_caller_stops_the_writing(tmp_path: Path) -> None:
    before = threading.active_count()
    path = tmp_path / "a.h5"
    with (
        pytest.raises(RuntimeError, match="mine"),
        ShardWriter(path, "test", FIELDS) as writer,
        BackgroundWriter(writer) as background,
    ):
        for name, values in images(10).items():
            background.add(name, **values)
        raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == [] and threading.active_count() == before


def test_images_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that stands still holds up the caller after a few images."""
    gate, added = threading.Event(), []
    append = ShardWriter.append

    def slow(self: ShardWriter, image: PreparedImage) -> None:
        gate.wait()
        append(self, image)

    monkeypatch.setattr(ShardWriter, "append", slow)

    def fill() -> None:
        with ShardWriter(tmp_path / "a.h5", "test", FIELDS) as writer, BackgroundWriter(writer, ahead=4) as background:
            for name, values in images(20).items():
                background.add(name, **values)
                added.append(name)

    thread = threading.Thread(target=fill)
    thread.start()
    for _ in range(500):
        if len(added) >= 5:
            break
        time.sleep(0.01)
    thread.join(0.2)
    assert len(added) == 5  # one with the writer, four in the queue
    gate.set()
    thread.join(30)
    assert len(added) == 20
