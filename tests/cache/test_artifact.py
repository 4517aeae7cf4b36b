"""Artifacts: what the manifest says, digests of contents, and damage that is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.cache import artifact as artifact_module
from split_matching.cache.artifact import load_artifact
from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry
from split_matching.cache.files import read_regular, rename_damaged
from split_matching.cache.keys import digest
from split_matching.cache.names import shard_name
from split_matching.errors import CorruptError, UserError
from tests.cache.example_builds import (
    IDS,
    RECIPE,
    make_plain,
    make_shard,
    make_sharded,
    plan_of,
    shards_of,
)


def test_a_list_of_images_may_be_larger_than_any_manifest(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_plain(entry, "[1, 2]", name="images.json")
    monkeypatch.setattr(read_regular, "__defaults__", (1,))  # bytes that a manifest may have
    with pytest.raises(ValueError, match="far too large"):
        read_regular(artifact.file("images.json"))
    assert artifact.json("images.json") == [1, 2]


def test_a_pipe_in_place_of_the_manifest_is_not_waited_for(entry: Entry) -> None:
    path = make_plain(entry).path / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptError, match="altered"):
        load_artifact(path.parent)


def test_manifest_says_what_made_it(entry: Entry) -> None:
    manifest = json.loads((make_sharded(entry).path / "manifest.json").read_bytes())
    assert manifest["code"] == {"stages/a.py": "1"}
    assert manifest["inputs"] == {"numbers/train": "0"}
    assert manifest["config"] == {"k": {"n": 1}}
    assert manifest["summary"] == {"images": 10} and manifest["images"] == 10
    assert manifest["files"]["train-00000.h5"].keys() == {"bytes", "sha256", "seconds", "data", "layout"}
    assert {"numpy", "pillow", "opencv-python-headless"} <= set(manifest["versions"])
    assert make_plain(entry).manifest["images"] == 0


def test_content_does_not_depend_on_the_size_of_shards(entry: Entry) -> None:
    contents = [make_sharded(replace(entry, key=digest(size)), size).content for size in (1, 3, 10)]
    assert len(set(contents)) == 1
    assert make_sharded(replace(entry, key=digest("x")), 3, scale=2).content not in contents


def test_content_is_known_by_file_and_split(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(5))
    for index, ids in enumerate(shards_of(5)):
        make_shard(build, index, ids)
    (build.path / "a.json").write_text("1")
    with build.lock():
        artifact = build.commit(1.0)
    assert artifact.content_of(["train"]) != artifact.content_of(["a.json"])
    assert artifact.content_of(["train", "a.json"]) == artifact.content
    with pytest.raises(CorruptError, match="'val'"):
        artifact.content_of(["val"])


def test_content_of_a_file_is_its_sha256_and_of_a_split_that_of_its_images(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(5))
    hashed = hashlib.sha256(b'[1,"squares",{}]')
    for index, ids in enumerate(shards_of(5)):
        make_shard(build, index, ids)
        for count in map(int, ids):
            squares = np.arange(count, dtype="<i8") ** 2
            image = f"x <i8 {squares.shape}\n".encode() + squares.tobytes()
            hashed.update(f'"{count:03d}"'.encode() + hashlib.sha256(image).digest())
    (build.path / "a.json").write_text("1")
    with build.lock():
        artifact = build.commit(1.0)
    assert artifact.manifest["content"] == {
        "a.json": hashlib.sha256(b"1").hexdigest(),
        "train": hashed.hexdigest(),
    }


def test_shards_are_read_in_order_and_unknown_splits_are_an_error(entry: Entry) -> None:
    artifact = make_sharded(entry)
    shards = artifact.shards("train")
    assert list(shards.ids) == IDS
    assert [shards.read(image_id, "x").tolist() for image_id in ("000", "003")] == [[], [0, 1, 4]]
    with pytest.raises(CorruptError, match="holds no shards of 'val'"):
        artifact.shards("val")


def test_file_that_is_not_there_or_not_of_the_artifact_is_an_error(entry: Entry) -> None:
    artifact = make_plain(entry)
    (artifact.path / "stranger.txt").write_text("text")
    with pytest.raises(CorruptError, match=r"stranger\.txt is missing: run the stage Square again"):
        artifact.file("stranger.txt")
    (artifact.path / "out.txt").unlink()
    with pytest.raises(CorruptError, match=r"out\.txt is missing: run the stage Square again"):
        artifact.file("out.txt")


def test_file_on_a_failing_disk_is_named_and_not_called_damaged(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_plain(entry)

    def fail(path: Path) -> str:
        raise OSError(number, "")

    monkeypatch.setattr(artifact_module, "known_sha256", fail)
    number = errno.EIO
    with pytest.raises(UserError, match=r"^cannot read .*out\.txt: input/output error; ") as caught:
        artifact.file("out.txt")
    assert not isinstance(caught.value, CorruptError)
    number = errno.EXDEV  # means nothing here
    with pytest.raises(OSError, match=str(errno.EXDEV)):
        artifact.file("out.txt")


def test_undeclared_file_is_an_error(entry: Entry) -> None:
    artifact = make_sharded(entry).restrict(["val"])
    with pytest.raises(LookupError, match="did not declare squares/train"):
        artifact.shards("train")


def test_altered_byte_is_found_and_the_file_renamed(entry: Entry) -> None:
    artifact = make_sharded(entry)
    path = artifact.path / shard_name("train", 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert entry.state(RECIPE).fresh
    assert artifact.damaged_files() == [path.name]
    rename_damaged(path)
    assert str(entry.state(RECIPE)) == "corrupt (train-00002.h5 is missing)"
    assert make_sharded(entry).damaged_files() == []


@pytest.mark.parametrize(
    "alter", [lambda text: text.replace('"seconds": 1.0', '"seconds": 2.0'), lambda text: text[:99]]
)
def test_altered_manifest_is_corrupt(entry: Entry, alter: Any) -> None:
    path = make_plain(entry).path / "manifest.json"
    assert alter(path.read_text()) != path.read_text()
    path.write_text(alter(path.read_text()))
    state = entry.state(RECIPE)
    assert state.name == "corrupt"
    assert "manifest.json is altered" in str(state)
    make_plain(entry)
    assert entry.state(RECIPE).fresh
