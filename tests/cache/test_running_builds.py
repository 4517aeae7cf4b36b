"""A build that a running process works on: also between two shards, with no lock held, nobody else removes it."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from split_matching.cache.build import open_build
from split_matching.cache.entry import Entry
from split_matching.cache.keys import digest
from split_matching.cache.running import build_users, claim
from split_matching.errors import UserError
from tests.cache.example_builds import KEY, RECIPE, make_shard, make_sharded, plan_of, shards_of
from tests.error_lines import error_line

OTHER = replace(RECIPE, code={"stages/a.py": "2"})


def _work(entry: Entry, claimed: list[Path], pipe: Any) -> None:
    """Make a shard; then, when told, the others, commit, and stay."""
    with claim(entry.root, [entry.folder, entry.partial, *claimed]):
        make_shard(open_build(entry, RECIPE, plan_of(4)), 0, shards_of(4)[0])
        pipe.send("one shard")
        pipe.recv()
        make_sharded(entry)
        pipe.send("all")
        time.sleep(60)


@contextlib.contextmanager
def working(entry: Entry, *claimed: Path) -> Iterator[tuple[Any, Any]]:
    """A process that has made one shard and holds no lock of the build."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(entry, list(claimed), there))
    process.start()
    try:
        assert here.poll(30) and here.recv() == "one shard"
        yield process, here
    finally:
        process.kill()
        process.join()


def once(action: Callable[[], Any]) -> tuple[list[str], Callable[[str], None]]:
    """Lines that were said, and what to say them to; the first one also does something."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            action()

    return said, say


def test_build_of_a_running_process_is_waited_for_until_it_is_whole(entry: Entry) -> None:
    with working(entry) as (_, pipe):
        said, say = once(lambda: pipe.send("go on"))
        build = open_build(entry, OTHER, plan_of(4), say=say)
        assert said == [f"waits for another process that makes {entry.partial} from other code or inputs"]
        assert pipe.recv() == "all"
        assert entry.state(RECIPE).name == "fresh"
        assert not build.is_done("train", 0)


def test_build_of_a_killed_process_is_thrown_away(entry: Entry) -> None:
    with working(entry) as (process, _):
        said, say = once(process.kill)
        build = open_build(entry, OTHER, plan_of(4), say=say)
        assert said[1:] == [f"removes 1 finished shard of other code or inputs from {entry.partial}"]
        assert not build.is_done("train", 0)


def test_build_of_the_same_code_is_joined_and_then_kept_by_both(entry: Entry) -> None:
    with working(entry) as (process, _), claim(entry.root, [entry.partial]):
        assert open_build(entry, RECIPE, plan_of(4)).is_done("train", 0)
        order = digest(entry.order(RECIPE, plan_of(4)))
        assert [who.startswith(f"process {process.pid} on") for who in build_users(entry.root, entry.partial, order)]
        with working(Entry(entry.root, "toy", "other", KEY)):
            assert len(build_users(entry.root, entry.partial, order)) == 1


def test_who_has_a_build_of_its_own_does_not_wait(entry: Entry) -> None:
    """Or two runs of different code could wait for each other for ever."""
    mine = Entry(entry.root, "toy", "mine", KEY)
    with working(entry) as (process, _), claim(entry.root, [mine.partial, entry.partial]):
        open_build(mine, OTHER)
        line = error_line(lambda: open_build(entry, OTHER, plan_of(4)), UserError)
        assert line.startswith(f"process {process.pid} on ")
        assert line.endswith(f"makes {entry.partial} from other code or inputs: run this again when that has ended")
        process.kill()
        process.join()
        open_build(entry, OTHER, plan_of(4))


def test_a_claim_alone_is_no_work(entry: Entry) -> None:
    """A run that has claimed the folder and has not come to it yet is not waited for."""
    make_shard(open_build(entry, RECIPE, plan_of(4)), 0, shards_of(4)[0])
    with working(Entry(entry.root, "toy", "other", KEY), entry.partial), claim(entry.root, [entry.partial]):
        assert not open_build(entry, OTHER, plan_of(4)).is_done("train", 0)
