"""The operating system's refusals as one line for the user: disk full, read-only, a folder where a file should be."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from split_matching.errors import UserError

REFUSALS = {
    errno.ENOSPC: "make room, or move the cache with --artifacts DIR",
    errno.EDQUOT: "make room, or move the cache with --artifacts DIR",
    errno.EFBIG: "raise the file size limit, or move the cache with --artifacts DIR",
    errno.EROFS: "use a writable folder: --artifacts DIR",
    errno.EACCES: "check its permissions, or use --artifacts DIR",
    errno.EPERM: "check its permissions, or use --artifacts DIR",
    errno.EISDIR: "a folder is in the way of a file: move it away",
    errno.ENOTDIR: "a file is in the way of a folder: move it away",
    errno.EEXIST: "something is in the way: move it away",
    errno.ENOLCK: "the file system has no locks: use --artifacts DIR on one that has",
    errno.ENOTSUP: "the file system lacks a function: use --artifacts DIR on another",
}


_FROM_RUST = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors) tell of the operating system, in exceptions of their own."""


def refusal(error: BaseException) -> int | None:
    """Return the error number if an exception says that the operating system refused to write."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _FROM_RUST.search(str(error))):
        number = int(found[1])
    return number if number in REFUSALS else None


@contextlib.contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Turn a refusal to write inside the block into a UserError that names the file.

    Args:
        path: the file that the block writes; the error's own file name is used where it has one.
    """
    try:
        yield
    except OSError as error:
        number = refusal(error)
        if number is None:
            raise
        name = error.filename2 or error.filename or path
        raise UserError(f"cannot write {name}: {os.strerror(number).lower()}; {REFUSALS[number]}") from error
