"""States of an entry: fresh only if made from the present code and inputs; asking changes nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache import build as build_module
from split_matching.cache.build import open_build
from split_matching.cache.entry import PROGRESS, Entry, read_progress
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


def test_build_beside_an_artifact_is_counted(entry: Entry) -> None:
    artifact, newer = make_sharded(entry), replace(RECIPE, code={"stages/a.py": "2"})
    assert str(entry.state(newer)) == "stale (code stages/a.py)"
    build = open_build(entry, newer, plan_of(4))
    assert str(entry.state(newer)) == "stale 0/3 (code stages/a.py)"
    make_shard(build, 1, shards_of(4)[1])
    assert str(entry.state(newer)) == "stale 1/3 (code stages/a.py)" and entry.has_build(newer)
    assert str(entry.state(RECIPE)) == "fresh" and not entry.has_build(RECIPE)
    (artifact.path / "train-00000.h5").unlink()
    assert str(entry.state(RECIPE)) == "corrupt (train-00000.h5 is missing)"
    (artifact.path / "manifest.json").write_text("{")
    assert str(entry.state(RECIPE)).startswith("corrupt (")
    assert str(entry.state(newer)).startswith("corrupt 1/3 (")
    assert str(replace(entry, key=digest("other")).state(RECIPE)) == "missing"


@pytest.mark.parametrize("damage", ["manifest", "file", "code"])
def test_without_a_build_nothing_is_counted(entry: Entry, damage: str) -> None:
    path = make_plain(entry).path / ("manifest.json" if damage == "manifest" else "out.txt")
    if damage != "code":
        path.write_text("{")
    state = entry.state(replace(RECIPE, code={}) if damage == "code" else RECIPE)
    assert (state.name, state.done, state.total) == ("stale" if damage == "code" else "corrupt", 0, 0)


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"step": 1, "steps": null, "seconds": 2}'])
def test_progress_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    assert read_progress(tmp_path) == (0, 0, 0)
    (tmp_path / PROGRESS).write_text(text)
    assert read_progress(tmp_path) == (0, 0, 0)


def test_damaged_artifact_that_is_being_made_again_is_counted(entry: Entry) -> None:
    (make_sharded(entry).path / "train-00001.h5").unlink()
    open_build(entry, RECIPE, plan_of(4))
    assert str(entry.state(RECIPE)) == "corrupt 2/3 (train-00001.h5 is missing)"


def test_only_a_build_of_the_same_is_resumed(entry: Entry) -> None:
    open_build(entry, RECIPE, plan_of(4), "token")
    assert entry.resumes(RECIPE, plan_of(4), "token")
    assert not entry.resumes(RECIPE, plan_of(4))
    assert not entry.resumes(RECIPE, plan_of(5), "token")
    assert not entry.resumes(replace(RECIPE, inputs={}), plan_of(4), "token")


def test_what_the_next_run_continues_from_says_how_it_is_cut(entry: Entry) -> None:
    assert entry.cuts(RECIPE) == []
    open_build(entry, RECIPE, plan_of(4))
    assert entry.cuts(RECIPE) == [plan_of(4)]
    assert entry.cuts(RECIPE, "token") == entry.cuts(replace(RECIPE, inputs={})) == []
    artifact = make_sharded(entry)
    assert entry.cuts(RECIPE) == []  # nothing is to be made
    (artifact.path / "train-00001.h5").unlink()
    assert entry.cuts(RECIPE) == [plan_of(4)]
    assert entry.cuts(RECIPE, "token") == entry.cuts(replace(RECIPE, inputs={})) == []


def test_shards_that_the_next_run_would_remove_are_counted(entry: Entry) -> None:
    build, newer = open_build(entry, RECIPE, plan_of(4)), replace(RECIPE, code={"stages/a.py": "2"})
    assert str(entry.state(newer)) == "missing"
    for index, shards in ((0, "1 finished shard"), (2, "2 finished shards")):
        make_shard(build, index, shards_of(4)[index])
        assert str(entry.state(newer)) == f"missing (would remove {shards} of other code)"
    assert str(entry.state(replace(RECIPE, inputs={}))) == "missing (would remove 2 finished shards of other inputs)"
    (build.path / "build.json").write_text("{}")
    assert str(entry.state(RECIPE)) == "missing (would remove 2 finished shards of a damaged build)"


def test_other_artifacts_of_the_stage_are_listed_newest_first(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [digest(n) for n in range(3)]
    for number in (1, 0, 2):
        made = {"created": f"2026-01-0{number + 1}", "host": "h", "versions": {}}
        monkeypatch.setattr(build_module, "circumstances", lambda made=made: made)
        make_plain(replace(entry, key=keys[number]))
    make_plain(entry)
    open_build(replace(entry, key=digest(3)), RECIPE)  # in progress: no artifact
    shutil.copytree(entry.folder, entry.folder.with_name("notes"))
    assert [found.path.name for found in entry.others()] == [key[:16] for key in reversed(keys)]
    assert replace(entry, stage="absent").others() == []


def test_damaged_shards_of_a_build_are_named(entry: Entry) -> None:
    assert entry.damaged_shards() == []
    build = open_build(entry, RECIPE, plan_of(3))
    for index, ids in enumerate(shards_of(3)):
        make_shard(build, index, ids)
    assert entry.damaged_shards() == []
    for index in (1, 2):
        path = build.shard_file("train", index)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    build.shard_file("train", 3).unlink()
    build.shard_file("train", 2).with_name("train-00002.h5.done.json").write_text("[]")
    assert entry.damaged_shards() == [build.shard_file("train", 1)]


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
