"""Errors of the file system as one line for the user: disk full, read-only, a folder where a file should be."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from split_matching.errors import UserError

CACHE_FOLDER = "--artifacts DIR"
"""The option that puts the cache into another folder."""

ADVICE = {
    errno.ENOSPC: "make room, or choose another place: {option}",
    errno.EDQUOT: "make room, or choose another place: {option}",
    errno.EFBIG: "raise the file size limit, or choose another place: {option}",
    errno.EROFS: "choose a writable folder: {option}",
    errno.EACCES: "check its permissions, or choose another place: {option}",
    errno.EPERM: "check its permissions, or choose another place: {option}",
    errno.EIO: "check the disk, or choose another place: {option}",
    errno.EISDIR: "a folder is in the way of a file: move it away",
    errno.ENOTDIR: "a file is in the way of a folder: move it away",
    errno.EEXIST: "something is in the way: move it away",
    errno.ENOLCK: "the file system has no locks: choose a place on one that has: {option}",
    errno.ENOTSUP: "the file system lacks a function: choose a place on another: {option}",
}
"""By error number, what a user can do."""

_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors) report an error number, in exceptions of their own."""


def explain_disk_error(
    error: BaseException, path: Path | str = "the cache", action: str = "write", option: str = CACHE_FOLDER
) -> UserError | None:
    """Return the error for the user that says what the file system reported, and what to do.

    Args:
        error: any exception.
        path: the file, unless the exception names one.
        action: what was tried.
        option: of the command line; chooses another place.

    Returns:
        None if the exception is no error of the file system that a user can do something about.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _RUST_ERROR.search(str(error))):
        number = int(found[1])
    if number not in ADVICE:
        return None
    name = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
    return UserError(f"cannot {action} {name}: {os.strerror(number).lower()}; {ADVICE[number].format(option=option)}")


@contextlib.contextmanager
def explain_disk_errors(path: Path, option: str = CACHE_FOLDER) -> Iterator[None]:
    """Turn an error of the file system inside the block into a UserError.

    Args:
        path: the file that the block writes, see `explain_disk_error`.
        option: of the command line; chooses another place.

    Raises:
        UserError: one that a user can do something about. Other exceptions pass as they are.
    """
    try:
        yield
    except OSError as error:
        explained = explain_disk_error(error, path, option=option)
        if explained is None:
            raise
        raise explained from error
