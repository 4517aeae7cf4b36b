"""A file or folder that this process may not read, although it may run as root."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_VERSION = 0x20080522  # of the interface of capset: two times effective, permitted and inheritable


@contextlib.contextmanager
def hidden(path: Path) -> Iterator[None]:
    """Take all rights on a path away during the block, also from root; skips the test where that cannot be done."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with _without_privileges():
            yield
    finally:
        path.chmod(mode)


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    libc, header, rights = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    none = (ctypes.c_uint32 * 6)()
    if libc.capget(header, rights):
        pytest.skip("this machine does not say which privileges root has")
    none[1], none[2], none[4], none[5] = rights[1], rights[2], rights[4], rights[5]  # to be taken up again
    if libc.capset(header, none):
        pytest.skip("root cannot give up its privileges here")
    try:
        yield
    finally:
        assert libc.capset(header, rights) == 0
