"""Advisory locks on files: they end with the process that holds them, so that nothing is left to clean up.

These are POSIX record locks: child processes do not inherit them. When a process closes any handle of a file, all its
locks on this file end, so nothing else may ever open a lock file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.errors import UserError


def try_lock(handle: int) -> bool:
    """Lock an open file without waiting, until it is closed or the process ends.

    Returns:
        False if another process holds the lock.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def lock_file(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the lock of a file, which is made if need be; wait while another process holds it.

    Args:
        path: the lock file.
        waiting: called once if another process holds it.

    Yields:
        Whether the lock counts: False if the folder of the lock file is not there, was renamed, or was removed.

    Raises:
        UserError: the file cannot be opened or locked, or is a link that leads nowhere.
    """
    try:
        with explain_disk_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        if path.is_symlink():  # else whoever tries again would do so for ever
            raise UserError(f"{path} is a link that leads nowhere: remove it") from None
        yield False
        return
    try:
        with explain_disk_errors(path):
            held = try_lock(handle)
        if not held:
            waiting()
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield _same_file(handle, path)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock_all(paths: Iterable[Path]) -> Iterator[bool]:
    """Hold the locks of all of some files, without waiting; files that are not there need no lock.

    Not for a process that holds one of these locks already: it would lose it.

    Yields:
        False if another process holds one of them.
    """
    with contextlib.ExitStack() as stack:
        for path in paths:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            stack.callback(os.close, handle)
            if not try_lock(handle):
                yield False
                return
        yield True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
