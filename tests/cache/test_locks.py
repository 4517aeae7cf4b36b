"""Locks: between processes, of folders that go away, and of a process that is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import stat
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache.locks import lock_all, lock_file, try_lock
from split_matching.errors import UserError


def _hold(path: Path, held: Any) -> None:
    with lock_file(path):
        held.set()
        time.sleep(60)


@contextlib.contextmanager
def locked_elsewhere(path: Path) -> Iterator[BaseProcess]:
    """Let another process hold the lock of a file during the block."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    holder = context.Process(target=_hold, args=(path, held))
    holder.start()
    try:
        assert held.wait(30)
        yield holder
    finally:
        holder.kill()
        holder.join()


def test_lock_is_waited_for_and_ends_with_its_process(tmp_path: Path) -> None:
    waited = []
    with locked_elsewhere(tmp_path / "a") as holder:

        def waiting() -> None:
            waited.append(True)
            holder.kill()

        with lock_file(tmp_path / "a", waiting) as held:
            assert held and waited == [True]


def test_free_lock_is_not_waited_for(tmp_path: Path) -> None:
    with lock_file(tmp_path / "a", lambda: pytest.fail("waited")) as held:
        assert held
    with lock_file(tmp_path / "a", lambda: pytest.fail("waited")) as held:
        assert held


def test_lock_file_is_readable_by_others_and_no_program(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with lock_file(tmp_path / "a"):
            assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_lock_in_a_folder_that_is_gone_does_not_count(tmp_path: Path) -> None:
    with lock_file(tmp_path / "none/a") as held:
        assert not held
    folder = tmp_path / "folder"
    folder.mkdir()
    with locked_elsewhere(folder / "a") as holder:

        def waiting() -> None:
            folder.rename(tmp_path / "elsewhere")
            holder.kill()

        with lock_file(folder / "a", waiting) as held:
            assert not held


def test_lock_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a folder is in the way of a file"), lock_file(tmp_path / "a"):
        pass


def test_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "lockf", fail)
    line = r"cannot write .*/a: no locks available; .* --artifacts DIR"
    with pytest.raises(UserError, match=line), lock_file(tmp_path / "a"):
        pass


def test_all_locks_or_none(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "absent")]
    for path in paths[:2]:
        path.touch()
    with lock_all(paths) as held:
        assert held
    with locked_elsewhere(paths[1]):
        with lock_all(paths) as held:
            assert not held
        with lock_all(paths[:1]) as held:
            assert held
    assert not paths[2].exists()


def test_open_file_is_locked_without_waiting(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file:
        with locked_elsewhere(tmp_path / "a"):
            assert not try_lock(file.fileno())
        assert try_lock(file.fileno())


def test_child_process_does_not_inherit_a_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with lock_file(tmp_path / "a"):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with locked_elsewhere(tmp_path / "a"):
            assert child.is_alive() and child.pid != os.getpid()
    finally:
        child.kill()
        child.join()


def test_a_lock_file_that_is_a_link_to_nowhere_is_an_error(tmp_path: Path) -> None:
    """It counts for nobody, and a run that waits for its build would try again for ever."""
    (tmp_path / "lock").symlink_to(tmp_path / "absent" / "lock")
    with pytest.raises(UserError, match="lock is a link that leads nowhere: remove it"), lock_file(tmp_path / "lock"):
        pass
    with lock_file(tmp_path / "absent" / "lock") as held:
        assert not held
