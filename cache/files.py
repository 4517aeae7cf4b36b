"""Reading, writing and removing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NO_FOLDER_SYNC = (errno.EBADF, errno.EINVAL)  # what file systems answer that cannot sync a folder


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Replace a file in one step: after an error or a crash, the old file is there, or the new one, but never a part.

    The block writes to a temporary file beside the target. At its end the file is synced and renamed to the target.
    The temporary name cannot be guessed, so that no link can be waiting there. The mode is that of an ordinary new
    file (0o666 without the umask), even if a library replaces the temporary file by one of its own.

    Args:
        path: the file to write. Its folder exists.

    Yields:
        The temporary file, empty. It is removed on any error.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # short, as the target's own name may be of full length
    # opened first: once the file is there, another process may rename its folder
    with _open_folder(path.parent) as folder:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield temporary
            with temporary.open("rb") as stream:
                if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) != mode:
                    os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            temporary.replace(path)
            _sync_names(folder)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, or None if it is absent or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def file_size(path: Path) -> int | None:
    """Return the size of a plain file in bytes, or None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def synced_sha256(path: Path) -> str:
    """Wait until a file is on the disk, and return its sha256 (64 hex digits)."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can do that."""
    with _open_folder(folder) as handle:
        _sync_names(handle)


def remove(path: Path) -> None:
    """Remove a file, or a folder in such a way that nobody sees it half removed."""
    if path.is_dir() and not path.is_symlink():
        old = path.with_name(f"{path.name}.{secrets.token_hex(4)}.old")
        path.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _sync_names(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
