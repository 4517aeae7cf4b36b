"""A machine without room for temporary files or semaphores ends a run with one line that says so."""

from __future__ import annotations

import errno
import multiprocessing
import os
import tempfile

import pytest

from tests.pipeline.toy_project import Toy


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "no space left on device"), (errno.EROFS, "read-only file"), (0, "refused")]
)
def test_no_semaphore(project: Toy, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(multiprocessing, "Lock", fail)
    assert project.run("Page") == 1
    assert project.err[-1].startswith(f"error: cannot make a semaphore in /dev/shm: {reason}")
    assert "--shm-size" in project.err[-1]
    assert len(project.err) == 1


def test_no_temporary_folder(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    assert project.run("Page") == 1
    assert project.err[-1].startswith("error: cannot make a temporary folder: No usable temporary directory found in")
    assert "TMPDIR" in project.err[-1]
