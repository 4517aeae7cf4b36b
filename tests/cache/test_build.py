"""Builds: wholly there or not at all, resumed, raced, killed, and on a full or read-only disk."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache import build as build_module
from split_matching.cache.build import Build, OtherShardsError, open_build, recover
from split_matching.cache.entry import Entry
from split_matching.cache.files import write_json
from split_matching.cache.names import shard_name
from split_matching.errors import CorruptError, UserError
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
from tests.cache.test_locks import locked_elsewhere


@pytest.mark.parametrize("change", ["code", "inputs", "force"])
def test_build_from_something_else_is_thrown_away(entry: Entry, change: str) -> None:
    make_shard(open_build(entry, RECIPE, plan_of(4)), 0, shards_of(4)[0])
    recipe = RECIPE if change == "force" else replace(RECIPE, **{change: {"a": "2"}})
    said: list[str] = []
    assert entry.state(recipe).reasons == (
        () if change == "force" else (f"would remove 1 finished shard of other {change}",)
    )
    build = open_build(entry, recipe, plan_of(4), "token" if change == "force" else "", said.append)
    assert said == [f"removes 1 finished shard of other code or inputs from {build.path}"]
    assert not build.is_done("train", 0)
    assert sorted(p.name for p in build.path.iterdir()) == ["build.json", "build.lock"]
    assert [p.name for p in build.path.parent.iterdir()] == [build.path.name]


def test_same_build_of_other_shards_is_kept(entry: Entry) -> None:
    make_shard(open_build(entry, RECIPE, plan_of(4)), 0, shards_of(4)[0])
    with pytest.raises(OtherShardsError, match="is cut into other shards"):
        open_build(entry, RECIPE, plan_of(5))
    assert entry.is_done("train", 0)
    assert entry.cuts(RECIPE) == [plan_of(4)]
    assert entry.cuts(replace(RECIPE, code={"stages/a.py": "2"})) == entry.cuts(RECIPE, "token") == []


def test_damaged_artifact_says_how_it_is_cut(entry: Entry) -> None:
    artifact = make_sharded(entry, 4)
    assert entry.cuts(RECIPE) == []
    (artifact.path / shard_name("train", 1)).unlink()
    assert entry.cuts(RECIPE) == [plan_of(4)]


def test_build_that_a_process_holds_is_waited_for(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    said: list[str] = []
    with build.lock_shard("train", 0):
        pass  # makes the lock file
    with locked_elsewhere(build.path / "train-00000.h5.lock") as holder:

        def hear(line: str) -> None:
            said.append(line)
            holder.kill()

        newer = open_build(entry, replace(RECIPE, code={"stages/a.py": "2"}), plan_of(4), "", hear)
    assert said == [f"waits for another process that makes {build.path} from other code or inputs"]
    assert newer.recipe.code == {"stages/a.py": "2"}


def test_seconds_of_shards_count_all_sessions_and_nothing_twice(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    # two sessions: shards that were made at 100-110 and 105-115 by two workers, and one at 1000-1002
    for index, (seconds, end) in enumerate([(10.0, 110.0), (10.0, 115.0), (2.0, 1002.0)]):
        make_shard(build, index, shards_of(4)[index])
        build.finish("train", index, seconds)
        os.utime(build.path / f"{shard_name('train', index)}.done.json", (end, end))
    assert build.shard_seconds() == pytest.approx(17.0)


def test_crash_before_the_rename_is_finished_by_the_next_run(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(entry, "old")

    def crash(partial: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    newer = replace(RECIPE, inputs={"numbers/train": "1"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, "swap_in", crash)
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


def test_failing_second_rename_leaves_the_older_artifact(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(entry, "old")
    newer = replace(RECIPE, inputs={"numbers/train": "1"})

    def fail(new: Path, folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(new))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="input/output error"):
        patch.setattr(build_module, "move_folder", fail)
        make_plain(entry, "new", newer)
    assert entry.state(RECIPE).fresh
    assert entry.artifact().file("out.txt").read_text() == "old"
    assert sorted(p.name for p in entry.folder.parent.iterdir()) == [entry.folder.name, entry.partial.name]
    recover(entry, newer)
    assert entry.artifact().file("out.txt").read_text() == "new"


def test_recover_leaves_a_finished_build_of_something_else(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(entry, "old")
    newer = replace(RECIPE, inputs={"numbers/train": "1"})
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "swap_in", lambda partial, folder: None)
        make_plain(entry, "new", newer)
    assert (entry.partial / "manifest.json").is_file()
    before = listing(entry.root)
    recover(entry, RECIPE)
    assert listing(entry.root) == before


def test_recover_leaves_a_build_that_another_process_swaps_in(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "swap_in", lambda partial, folder: None)
        with pytest.raises(CorruptError):  # there is no artifact yet
            make_plain(entry)
    monkeypatch.setattr(build_module, "lock_file", lambda path: contextlib.nullcontext(False))
    before = listing(entry.root)
    recover(entry, RECIPE)
    assert listing(entry.root) == before


def test_build_is_thrown_away_only_if_it_still_differs_under_its_lock(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this process waited for the lock, another one started the very build that is wanted."""
    newer = replace(RECIPE, code={"stages/a.py": "2"})
    open_build(entry, RECIPE)

    @contextlib.contextmanager
    def another_process(build: Build, waiting: object = None) -> Iterator[bool]:
        write_json(build.path / "build.json", entry.order(newer, {}))
        (build.path / "result").write_text("of another process")
        yield True

    monkeypatch.setattr(Build, "lock", another_process)
    assert (open_build(entry, newer).path / "result").read_text() == "of another process"


def test_build_whose_lock_does_not_count_is_not_thrown_away(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removed it, and whatever is at its place now belongs to that process."""
    newer = replace(RECIPE, code={"stages/a.py": "2"})
    open_build(entry, RECIPE)

    @contextlib.contextmanager
    def removed_meanwhile(build: Build, waiting: object = None) -> Iterator[bool]:
        build.path.rename(build.path.with_name("before"))
        build.path.mkdir()
        (build.path / "result").write_text("of another process")
        yield False
        write_json(build.path / "build.json", entry.order(newer, {}))

    monkeypatch.setattr(Build, "lock", removed_meanwhile)
    assert (open_build(entry, newer).path / "result").read_text() == "of another process"


def test_shards_of_other_code_are_not_taken_over(entry: Entry) -> None:
    make_sharded(entry)
    build = open_build(entry, replace(RECIPE, code={"stages/a.py": "2"}), plan_of(4))
    assert not any(build.is_done("train", index) for index in range(3))


def test_shards_taken_over_are_copied_where_there_are_no_links(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_sharded(entry)
    whole = artifact.file("train-00000.h5").read_bytes()
    artifact.file("train-00001.h5").unlink()

    def fail(*arguments: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", fail)
    build = open_build(entry, RECIPE, plan_of(4))
    assert [build.is_done("train", index) for index in range(3)] == [True, False, True]
    assert build.shard_file("train", 0).read_bytes() == whole


def test_each_shard_has_a_lock_of_its_own(entry: Entry) -> None:
    build = open_build(entry, RECIPE, plan_of(4))
    with build.lock_shard("train", 0) as first, build.lock_shard("train", 1) as second:
        assert first and second
        locks = ["build.lock", "train-00000.h5.lock", "train-00001.h5.lock"]
        assert sorted(path.name for path in build.path.glob("*.lock")) == locks


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


def test_left_over_files_do_not_get_into_the_artifact(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    (build.path / "sub").mkdir()
    for name in ("weights.bin", "checkpoint.pt", "sub/checkpoint-3", "sub/a.txt", ".a.h5.1234.tmp", ".x", "y.tmp"):
        (build.path / name).write_text(name)
    with build.lock():
        artifact = build.commit(1.0)
    assert sorted(artifact.manifest["files"]) == [".x", "sub/a.txt", "weights.bin", "y.tmp"]
    present = sorted(p.name for p in artifact.path.rglob("*") if p.is_file())
    assert present == [".x", "a.txt", "manifest.json", "weights.bin", "y.tmp"]


def test_build_that_resumes_keeps_all_but_what_a_killed_writer_left(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    for name in ("checkpoint.pt", ".0123456789abcdef.tmp"):
        (build.path / name).write_text(name)
    with build.lock():
        build.clear(resume=True)
        assert sorted(p.name for p in build.path.iterdir()) == ["build.json", "build.lock", "checkpoint.pt"]
        build.clear()
        assert sorted(p.name for p in build.path.iterdir()) == ["build.json", "build.lock"]


def test_link_or_strange_name_or_nothing_at_all_is_no_artifact(entry: Entry) -> None:
    build = open_build(entry, RECIPE)
    with build.lock(), pytest.raises(ValueError, match="wrote no file"):
        build.commit(1.0)
    (build.path / "link").symlink_to("/etc/hostname")
    with build.lock(), pytest.raises(ValueError, match="no plain file"):
        build.commit(1.0)
    (build.path / "link").unlink()
    (build.path / "a\nb").write_text("a name that no manifest may have")
    with build.lock(), pytest.raises(ValueError, match=r"the name 'a\\nb' is not allowed"):
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
    def fail(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(UserError, match=r"cannot write .*squares: read-only file system; .* --artifacts DIR"):
        open_build(entry, RECIPE)
