"""Cutting into shards: what is there decides about the size; nothing finished is lost to another runtime.shard_size."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from split_matching.cache.artifact import Artifact
from split_matching.cache.keys import digest
from split_matching.pipeline.shards import ShardCutter
from tests.pipeline.toy_project import Toy


def dataset(folder: Path, train: int, val: int) -> Artifact:
    images = {name: [{"id": f"{i:03d}"} for i in range(n)] for name, n in (("train", train), ("val", val))}
    text = json.dumps(images)
    (folder / "images.json").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Artifact(folder, {"content": {"images.json": sha256}, "files": {"images.json": {"sha256": sha256}}})


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10, 99])
def test_size_of_a_cut_is_found(tmp_path: Path, size: int) -> None:
    images, splits = dataset(tmp_path, 10, 4), ("train", "val")
    cuts = ShardCutter(size).digests(images, splits, size)
    assert cuts["train"][0] == digest([f"{i:03d}" for i in range(10)][:size])
    found = ShardCutter(5).size_of(images, splits, [cuts])
    assert ShardCutter(5).digests(images, splits, found) == cuts


def test_cut_of_other_images_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cuts = ShardCutter(3).digests(dataset(tmp_path / "other", 11, 4), ("train",), 3)
    assert ShardCutter(5).size_of(dataset(tmp_path, 10, 4), ("train",), [cuts]) == 5
    assert ShardCutter(5).size_of(dataset(tmp_path, 10, 4), ("train",), []) == 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupted_run_is_resumed_with_its_own_shards(project: Toy, workers: str) -> None:
    project.trouble("data 0006")
    assert project.run("Squares", "--set", "runtime.shard_size=2") == 3
    project.trouble("")
    done = {line for line in project.log() if line.startswith("square")}
    project.run("plan Squares")  # with shards of 4
    planned = next(line for line in project.out if line.startswith("Squares"))
    left = int(re.search(r"partial (\d+)/7, (\d+) shards", planned)[2])
    assert project.run("Squares", "--workers", workers) == 0
    again = {line for line in project.log() if line.startswith("square")}
    assert not [line for line in again & done if int(line[-4:]) < 6]
    assert len(list((project.folder / "artifacts/shapes/squares").glob("*/*.h5"))) == 7 and left > 0


def test_damaged_artifact_of_other_shards_keeps_what_is_whole(project: Toy) -> None:
    project.run("Page", "--set", "runtime.shard_size=2")
    next((project.folder / "artifacts/shapes/squares").glob("*/train-00001.h5")).unlink()
    project.log()
    assert project.run("Page") == 0
    assert project.log() == ["square train 0002", "square train 0003"]


def test_runs_with_other_shards_make_it_together(project: Toy) -> None:
    processes = [project.start("Page", "--set", f"runtime.shard_size={size}") for size in (1, 2, 3)]
    found = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], found
    assert project.run("verify") == 0
    assert len(list((project.folder / "artifacts/shapes/squares").iterdir())) == 1
