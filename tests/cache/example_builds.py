"""A result of two kinds, a text file and shards, built by hand for the tests of entries, builds and artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from split_matching.cache.artifact import Artifact
from split_matching.cache.build import Build, open_build
from split_matching.cache.entry import Entry, Recipe
from split_matching.cache.keys import digest
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter

KEY = digest("key")
RECIPE = Recipe("Square", 1, {"k": {"n": 1}}, {"stages/a.py": "1"}, {"numbers/train": "0"})
IDS = [f"{i:03d}" for i in range(10)]


def shards_of(size: int) -> list[list[str]]:
    return [IDS[start : start + size] for start in range(0, len(IDS), size)]


def plan_of(size: int) -> dict[str, list[str]]:
    return {"train": [digest(ids) for ids in shards_of(size)]}


def make_shard(build: Build, index: int, ids: list[str], scale: int = 1) -> None:
    with ShardWriter(build.shard_file("train", index), "squares", {"x": Field("int64", 1)}) as writer:
        for image_id in ids:
            writer.add(image_id, x=scale * np.arange(int(image_id)) ** 2)
    build.finish("train", index, 0.1)


def make_sharded(entry: Entry, size: int = 4, recipe: Recipe = RECIPE, scale: int = 1) -> Artifact:
    build = open_build(entry, recipe, plan_of(size))
    for index, ids in enumerate(shards_of(size)):
        if not build.is_done("train", index):
            make_shard(build, index, ids, scale)
    with build.lock() as held:
        assert held
        return build.commit(1.0, {"images": len(IDS)}, len(IDS))


def make_plain(entry: Entry, text: str = "text", recipe: Recipe = RECIPE, name: str = "out.txt") -> Artifact:
    build = open_build(entry, recipe)
    (build.path / name).parent.mkdir(parents=True, exist_ok=True)
    (build.path / name).write_text(text)
    with build.lock() as held:
        assert held
        return build.commit(1.0)


def listing(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_ino) for p in root.rglob("*"))
