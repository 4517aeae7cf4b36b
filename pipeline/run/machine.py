"""What a run needs of the machine besides its cache. An error names the place and the remedy."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path

from split_matching.errors import UserError


def make_temporary_folder() -> Path:
    """Return a new folder among the temporary files.

    Raises:
        UserError: none can be made.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="split-matching-"))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot make a temporary folder: {reason}; make room there, set TMPDIR, or check the file size limit "
            "(ulimit -f)"
        ) from None


def check_semaphores() -> None:
    """Reject a system that gives no semaphore, through which luigi hears from its processes.

    Raises:
        UserError: it gives none.
    """
    try:
        multiprocessing.Lock()
    except OSError as error:
        reason = (
            os.strerror(error.errno).lower() if error.errno else "refused"
        )  # glibc gives no reason at a file size limit
        raise UserError(
            f"cannot make a semaphore in /dev/shm: {reason}; make room there (docker: --shm-size) or make it writable, "
            "and check the file size limit (ulimit -f)"
        ) from None
