"""States of an entry: fresh only if made from the present code and inputs; asking changes nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry
from split_matching.cache.keys import digest
from tests.cache.example_builds import (
    KEY,
    RECIPE,
    listing,
    make_plain,
    make_shard,
    make_sharded,
    plan_of,
    shards_of,
)


def test_missing_then_fresh(entry: Entry) -> None:
    assert str(entry.state(RECIPE)) == "missing"
    artifact = make_plain(entry)
    assert str(entry.state(RECIPE)) == "fresh"
    assert artifact.path == entry.root / "toy" / "squares" / KEY[:16]
    assert artifact.file("out.txt").read_text() == "text"
    assert sorted(p.name for p in artifact.path.iterdir()) == ["manifest.json", "out.txt"]
    assert [p.name for p in artifact.path.parent.iterdir()] == [KEY[:16]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"code": {"stages/a.py": "2"}}, "stale (code stages/a.py)"),
        ({"code": {"stages/a.py": "1", "stages/b.py": "1"}}, "stale (code stages/b.py)"),
        ({"inputs": {"numbers/train": "1"}}, "stale (input numbers/train changed)"),
    ],
)
def test_stale_says_why(entry: Entry, change: dict[str, Any], reason: str) -> None:
    make_plain(entry)
    assert str(entry.state(replace(RECIPE, **change))) == reason


def test_a_key_that_begins_alike_is_another_result(entry: Entry) -> None:
    make_plain(entry)
    assert str(replace(entry, key=KEY[:16] + "0" * 48).state(RECIPE)) == "stale (key)"


def test_unfinished_build_is_partial_and_resumes(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    make_shard(build, 1, shards_of(4)[1])
    assert str(entry.state(RECIPE)) == "partial 1/3"
    again = open_build(entry, RECIPE, plan_of(4))
    assert [again.is_done("train", index) for index in range(3)] == [False, True, False]


def test_state_changes_nothing(entry: Entry) -> None:
    make_sharded(entry)
    make_shard(open_build(replace(entry, key=digest("other")), RECIPE, plan_of(4)), 0, shards_of(4)[0])
    before = listing(entry.root)
    for place, recipe in (
        (entry, RECIPE),
        (replace(entry, key=digest("other")), RECIPE),
        (entry, replace(RECIPE, code={})),
    ):
        place.state(recipe)
    assert listing(entry.root) == before


def test_moved_cache_is_fresh(entry: Entry, tmp_path: Path) -> None:
    make_sharded(entry)
    shutil.copytree(entry.root, tmp_path / "elsewhere")
    shutil.rmtree(entry.root)
    assert replace(entry, root=tmp_path / "elsewhere").state(RECIPE).fresh
