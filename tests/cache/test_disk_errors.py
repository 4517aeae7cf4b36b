"""Errors of the file system: one line with the file, the reason and the remedy; others pass."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from split_matching.cache.disk_errors import ADVICE, explain_disk_error, explain_disk_errors, explain_read_error
from split_matching.errors import UserError


@pytest.mark.parametrize("number", sorted(ADVICE))
def test_every_known_error_is_one_line(number: int) -> None:
    line = str(explain_disk_error(OSError(number, "reason"), Path("/cache/a")))
    assert line.startswith("cannot write /cache/a: ") and "{" not in line and "\n" not in line


def test_file_of_the_error_comes_first() -> None:
    assert "cannot use x: " in str(explain_disk_error(OSError(errno.EACCES, "", "x"), "y", action="use"))
    assert "cannot write z: " in str(explain_disk_error(OSError(errno.EACCES, "", "x", None, "z"), "y"))
    assert "cannot write the cache: " in str(explain_disk_error(OSError(errno.EACCES, "")))


def test_option_is_named() -> None:
    error = OSError(errno.ENOSPC, "")
    assert str(explain_disk_error(error)).endswith(
        "no space left on device; make room, or choose another place: --artifacts DIR"
    )
    assert str(explain_disk_error(error, option="--set data.root=PATH")).endswith(": --set data.root=PATH")


def test_too_few_open_files_say_what_to_raise() -> None:
    line = str(explain_disk_error(OSError(errno.EMFILE, ""), "/cache/a"))
    assert line == "cannot write /cache/a: too many open files; raise the limit of open files (ulimit -n)"


def test_errors_of_rust_are_known_by_their_text() -> None:
    found = explain_disk_error(RuntimeError("I/O error: No space left on device (os error 28)"), "a")
    assert str(found).startswith("cannot write a: no space left on device; ")


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError("no number"), OSError(errno.ENOENT, ""), OSError(99999, "")]
)
def test_other_errors_pass(error: Exception) -> None:
    assert explain_disk_error(error) is None
    with pytest.raises(type(error)) as caught, explain_disk_errors(Path("a")):
        raise error
    assert caught.value is error


def test_block_raises_the_line_and_keeps_the_cause(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder is in the way of a file") as caught, explain_disk_errors(tmp_path):
        tmp_path.write_text("x")
    assert isinstance(caught.value.__cause__, IsADirectoryError)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "reason"), "input/output error"),
        (OSError(errno.ESTALE, "reason"), "stale file handle"),
        (OSError("Can't read data (file read failed: time = Sat, filename = 'x', errno = 5)"), "input/output error"),
    ],
)
def test_failing_disk_is_told_from_wrong_bytes(error: OSError, reason: str) -> None:
    assert str(explain_read_error(error, Path("a.h5"))).startswith(f"cannot read a.h5: {reason}; check the disk")


@pytest.mark.parametrize("error", [OSError("bad checksum"), OSError(errno.ENOENT, "")])
def test_wrong_bytes_are_no_error_of_the_disk(error: OSError) -> None:
    assert explain_read_error(error, Path("a.h5")) is None
