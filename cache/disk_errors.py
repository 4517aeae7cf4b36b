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
    errno.EINTR: "it was interrupted: run it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.ESTALE: "check the disk or the network; rerun then",
    errno.ETIMEDOUT: "check the network; rerun then",
    errno.EISDIR: "a folder is in the way of a file: move it away",
    errno.ENOTDIR: "a file is in the way of a folder: move it away",
    errno.EEXIST: "something is in the way: move it away",
    errno.ENAMETOOLONG: "choose a place with a shorter name: {option}",
    errno.ELOOP: "a link leads to itself: remove it, or choose another place: {option}",
    errno.ENOLCK: "the file system has no locks: choose a place on one that has: {option}",
    errno.ENOTSUP: "the file system lacks a function: choose a place on another: {option}",
}
"""By error number, what a user can do."""

NOT_DAMAGE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.ENOMEM,), "use fewer --workers"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV), "check the disk or the network; rerun then"),
    **dict.fromkeys(
        (errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ESHUTDOWN), "check the network; rerun then"
    ),
}
"""Errors of reading that say nothing about the file's bytes, with what a user can do."""

_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors) report an error number, in exceptions of their own."""

_HDF5_ERROR = re.compile(r"\berrno = (\d+)")
"""How HDF5 reports one that it met while it read data."""


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


def explain_read_error(error: OSError, path: Path) -> UserError | None:
    """Return the error for the user if a file could not be read; None if it could, and its bytes are wrong.

    Args:
        error: what reading it ended with; HDF5 gives its own errors the number of the system's.
        path: the file.
    """
    found = _HDF5_ERROR.search(str(error))
    number = error.errno or (int(found[1]) if found else 0)
    advice = NOT_DAMAGE.get(number)
    return UserError(f"cannot read {path}: {os.strerror(number).lower()}; {advice}") if advice else None


@contextlib.contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system that says nothing about a file's bytes into a UserError.

    Args:
        path: what the block reads, unless the exception names another file.

    Raises:
        UserError: it cannot be read. Other exceptions pass as they are.
    """
    try:
        yield
    except OSError as error:
        if explained := explain_read_error(error, Path(error.filename or path)):
            raise explained from error
        raise


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
