"""The cache's promises: wholly there or not at all, fresh only if made from the present code and inputs."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_matching.cache import build as build_module
from split_matching.cache.artifact import Artifact, shard_name
from split_matching.cache.build import Build, open_build, recover
from split_matching.cache.entry import Entry, Recipe
from split_matching.cache.files import rename_damaged
from split_matching.cache.keys import digest
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.errors import CorruptError, UserError

KEY = digest("key")
RECIPE = Recipe("Square", 1, {"k": {"n": 1}}, {"stages/a.py": "1"}, {"numbers/train": "0"})
IDS = [f"{i:03d}" for i in range(10)]


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path / "artifacts", "toy", "squares", KEY)


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


def test_missing_then_fresh(entry: Entry) -> None:
    assert str(entry.state(RECIPE)) == "missing"
    artifact = make_plain(entry)
    assert str(entry.state(RECIPE)) == "fresh"
    assert artifact.path == entry.root / "toy" / "squares" / KEY[:16]
    assert artifact.file("out.txt").read_text() == "text"
    assert sorted(p.name for p in artifact.path.iterdir()) == ["manifest.json", "out.txt"]
    assert [p.name for p in artifact.path.parent.iterdir()] == [KEY[:16]]


def test_manifest_says_what_made_it(entry: Entry) -> None:
    manifest = json.loads((make_sharded(entry).path / "manifest.json").read_bytes())
    assert manifest["code"] == {"stages/a.py": "1"}
    assert manifest["inputs"] == {"numbers/train": "0"}
    assert manifest["config"] == {"k": {"n": 1}}
    assert manifest["summary"] == {"images": 10}
    assert manifest["files"]["train-00000.h5"].keys() == {"bytes", "sha256", "seconds"}
    assert "numpy" in manifest["versions"]


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


def test_unfinished_build_is_partial_and_goes_on(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    make_shard(build, 1, shards_of(4)[1])
    assert str(entry.state(RECIPE)) == "partial 1/3"
    again = open_build(entry, RECIPE, plan_of(4))
    assert [again.is_done("train", index) for index in range(3)] == [False, True, False]


@pytest.mark.parametrize("change", ["code", "shards", "force"])
def test_build_from_something_else_is_thrown_away(entry: Entry, change: str) -> None:
    make_shard(open_build(entry, RECIPE, plan_of(4)), 0, shards_of(4)[0])
    recipe = replace(RECIPE, code={"stages/a.py": "2"}) if change == "code" else RECIPE
    plan = plan_of(5 if change == "shards" else 4)
    build = open_build(entry, recipe, plan, "token" if change == "force" else "")
    assert not build.is_done("train", 0)
    assert sorted(p.name for p in build.path.iterdir()) == ["build.json", "build.lock"]
    assert [p.name for p in build.path.parent.iterdir()] == [build.path.name]


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


def test_undeclared_file_is_refused(entry: Entry) -> None:
    artifact = make_sharded(entry).restrict(["val"])
    with pytest.raises(LookupError, match="did not declare squares/train"):
        artifact.shards("train")


def test_crash_before_the_rename_is_finished_by_the_next_run(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(entry, "old")

    def crash(partial: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    newer = replace(RECIPE, inputs={"numbers/train": "1"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, "_swap_in", crash)
        make_plain(entry, "new", newer)
    assert entry.state(RECIPE).fresh  # the old artifact is untouched
    recover(entry, newer)
    assert entry.state(newer).fresh
    assert entry.artifact().file("out.txt").read_text() == "new"


def test_crash_between_the_two_renames_is_finished_by_the_next_run(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plain(entry, "old")
    newer = replace(RECIPE, inputs={"numbers/train": "1"})
    rename = Path.rename
    calls: list[Path] = []

    def crash_after_one(self: Path, target: Path) -> Path:
        if "artifacts" in str(self) and not self.name.endswith(".new"):
            calls.append(self)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", crash_after_one)
        make_plain(entry, "new", newer)
    assert not entry.folder.exists()
    recover(entry, newer)
    assert entry.artifact().file("out.txt").read_text() == "new"


def test_recover_leaves_a_build_without_manifest(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    make_shard(build, 0, shards_of(4)[0])
    before = listing(entry.root)
    recover(entry, RECIPE)
    assert listing(entry.root) == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "train-00001.h5 has"),
        (lambda p: p.unlink(), "train-00001.h5 is missing"),
        (lambda p: (p.unlink(), p.mkdir()), "train-00001.h5 is missing"),
    ],
)
def test_damage_is_named_and_only_that_shard_made_again(entry: Entry, damage: Any, reason: str) -> None:
    artifact = make_sharded(entry)
    content = artifact.content
    damage(artifact.path / shard_name("train", 1))
    state = entry.state(RECIPE)
    assert state.name == "corrupt"
    assert reason in str(state)
    build = open_build(entry, RECIPE, plan_of(4))
    assert [build.is_done("train", index) for index in range(3)] == [True, False, True]
    assert make_sharded(entry).content == content
    assert entry.state(RECIPE).fresh


def test_altered_byte_is_found_by_verify_and_set_aside(entry: Entry) -> None:
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


def test_moved_cache_is_fresh(entry: Entry, tmp_path: Path) -> None:
    make_sharded(entry)
    shutil.copytree(entry.root, tmp_path / "elsewhere")
    shutil.rmtree(entry.root)
    assert replace(entry, root=tmp_path / "elsewhere").state(RECIPE).fresh


def test_scrap_does_not_get_into_the_artifact(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    (build.path / "sub").mkdir()
    for name in ("weights.bin", "checkpoint.pt", "sub/checkpoint-3", "sub/a.txt", ".a.h5.1234.tmp"):
        (build.path / name).write_text(name)
    with build.lock():
        artifact = build.commit(1.0)
    assert sorted(artifact.manifest["files"]) == ["sub/a.txt", "weights.bin"]
    assert sorted(p.name for p in artifact.path.rglob("*") if p.is_file()) == ["a.txt", "manifest.json", "weights.bin"]


def test_link_or_nothing_at_all_is_no_artifact(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    with build.lock(), pytest.raises(ValueError, match="wrote no file"):
        build.commit(1.0)
    (build.path / "link").symlink_to("/etc/hostname")
    with build.lock(), pytest.raises(ValueError, match="no plain file"):
        build.commit(1.0)


def _race(root: Path, number: int, barrier: Any, queue: Any) -> None:
    entry = Entry(root, "toy", "squares", KEY)
    barrier.wait()
    won = False
    while not entry.state(RECIPE).fresh:
        build = open_build(entry, RECIPE)
        with build.lock() as held:
            if not held:
                continue
            if entry.state(RECIPE).fresh:
                build.discard()
                break
            for name in ("a", "b", "c"):
                (build.path / name).write_text(str(number))
                time.sleep(0.02)
            build.commit(1.0)
            won = True
    queue.put(won)


def test_race_has_one_winner_and_no_mixed_files(entry: Entry) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_race, args=(entry.root, n, barrier, queue)) for n in range(4)]
    for racer in racers:
        racer.start()
    won = [queue.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    artifact = entry.artifact()
    assert won.count(True) == 1
    assert len({artifact.file(name).read_text() for name in ("a", "b", "c")}) == 1
    assert [p.name for p in artifact.path.parent.iterdir()] == [artifact.path.name]


def _hold(root: Path, queue: Any) -> None:
    with open_build(Entry(root, "toy", "squares", KEY), RECIPE).lock() as held:
        queue.put(held)
        time.sleep(60)


def test_lock_ends_with_its_process(entry: Entry) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    holder = context.Process(target=_hold, args=(entry.root, queue))
    holder.start()
    assert queue.get(timeout=30)
    build = open_build(entry, RECIPE)
    with build.lock(waiting=holder.kill) as held:
        assert held
    holder.join()


def test_lock_of_a_committed_build_is_not_held(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    make_plain(entry)
    with build.lock() as held:
        assert not held


def test_file_in_the_way_of_a_folder_is_one_line(entry: Entry) -> None:
    entry.root.mkdir()
    (entry.root / "toy").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*toy.*: move it away|file is in the way"):
        open_build(entry, RECIPE)


def _commit_with_little_room(entry: Entry, queue: Any) -> None:
    build = open_build(entry, RECIPE)
    (build.path / "a").write_text("x" * 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    try:
        with build.lock():
            build.commit(1.0)
    except UserError as error:
        queue.put(str(error))


def test_full_disk_at_commit_leaves_the_build(entry: Entry) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_commit_with_little_room, args=(entry, queue))
    process.start()
    assert "cannot write" in queue.get(timeout=30)
    process.join()
    assert str(entry.state(RECIPE)) == "partial"
    assert make_plain(entry).file("a").read_text() == "x" * 100


def test_read_only_cache_is_one_line(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot write .*squares: read-only file system; .* --artifacts DIR"):
        open_build(entry, RECIPE)
