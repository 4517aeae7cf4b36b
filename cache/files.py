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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from split_matching.cache.disk_errors import NOT_DAMAGE, explain_read_errors
from split_matching.cache.fields import Test

NO_FOLDER_SYNC = (errno.EBADF, errno.EINVAL)  # what file systems answer that cannot sync a folder

MOST_BYTES = 100_000_000  # of a manifest: one of 100,000 shards has 40 MB


@contextlib.contextmanager
def atomic_write(path: Path, sync: bool = True) -> Iterator[Path]:
    """Replace a file in one step: after an error or a crash, the old file is there, or the new one, but never a part.

    The block writes to a temporary file beside the target. At its end the file is synced and renamed to the target.
    The temporary name cannot be guessed, so that no link can be waiting there. The mode is that of an ordinary new
    file (0o666 without the umask), even if a library replaces the temporary file by one of its own.

    Args:
        path: the file to write. Its folder exists.
        sync: wait until the file is on the disk. False for thousands of small files that can be made again: a crash of
            the machine, though not of the process, may then cost their content.

    Yields:
        The temporary file, empty. It is removed on any error.

    Raises:
        OSError: the file cannot be written; names the target.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # short, as the target's own name may be of full length
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield temporary
            if stat.S_IMODE(temporary.stat().st_mode) != mode:
                temporary.chmod(mode)
            if sync:
                replace_file(temporary, path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.filename in (temporary, str(temporary)):
            error.filename = str(path)
        raise


def replace_file(new: Path, path: Path) -> None:
    """Rename a file that was written beside its target, and wait until content and name are on the disk."""
    with _open_folder(path.parent) as folder:  # once the file is there, another process may rename its folder
        with new.open("rb") as stream:
            os.fsync(stream.fileno())
        new.replace(path)
        _sync_names(folder)


def move_folder(new: Path, folder: Path) -> None:
    """Rename a folder that was filled file by file to its final name; temporary files of killed writers are removed.

    Args:
        new: the folder, beside its final place.
        folder: where nothing is yet.
    """
    remove_temporary_files(new)
    sync_folder(new)
    new.rename(folder)
    sync_folder(folder.parent)


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed writers left in a folder and below it. Nobody may write there meanwhile."""
    for path in [path for path in folder.rglob(".*.tmp") if path.is_file()]:
        path.unlink()


def self_digest(value: Mapping[str, Any]) -> str:
    """Return the digest that a JSON object carries of itself."""
    body = {name: item for name, item in value.items() if name != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file with a JSON object in one step; it carries a digest of itself."""
    with atomic_write(path) as temporary:
        content = {**value, "digest": self_digest(value)}
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has the half of a sign, which no file and no page can hold.
    """
    if isinstance(text, bytes):
        text = text.decode()  # `json` takes the bytes of half a sign
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_regular(path: Path, most: int | None = MOST_BYTES) -> bytes:
    """Return the bytes of a file.

    Args:
        path: the file.
        most: bytes that it may have; None for any number.

    Raises:
        ValueError: it is a pipe, for which one may wait for ever, or too large.
        OSError: it cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or (most is not None and found.st_size > most):
        raise ValueError("it is no file, or far too large")
    return path.read_bytes()


def read_json(path: Path, holds: Test) -> dict[str, Any] | None:
    """Return what `write_json` wrote; None if the file is absent or altered, or not what it is taken for.

    Args:
        path: the file.
        holds: the test that its object must pass, see `cache.fields`.

    Raises:
        UserError: it cannot be read, so nobody knows.
    """
    try:
        with explain_read_errors(path):
            value = parse_json(read_regular(path))
    except (OSError, ValueError):
        return None
    intact = isinstance(value, dict) and value.pop("digest", None) == self_digest(value)
    return value if intact and holds(value) else None


def file_size(path: Path) -> int | None:
    """Return the size of a plain file in bytes, or None if there is none.

    Raises:
        OSError: nobody knows, as a folder above may not be read, or the disk does not answer.
    """
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in NOT_DAMAGE:
            raise
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 for one that is not there. Follows no links."""
    size = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                inner = entry.is_dir(follow_symlinks=False)
                size += folder_size(Path(entry.path)) if inner else entry.stat(follow_symlinks=False).st_size
    return size


def rename_damaged(path: Path, sha256: str = "") -> Path | None:
    """Rename a damaged file to NAME.damaged, so that its stage makes it again.

    Goes through a handle of the folder: where another process puts a new folder in its place, that is left alone.

    Args:
        path: the file.
        sha256: of the file as it was written, if it is not certain that it is damaged.

    Returns:
        The new path; None if the file is as it was written.

    Raises:
        OSError: the file cannot be read, or the folder cannot be written.
    """
    damaged = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(FileNotFoundError), _open_folder(path.parent) as folder:  # another process may be faster
        if sha256 and _sha256_in(folder, path.name) == sha256:
            return None
        if damaged.is_dir():
            remove(damaged)
        os.replace(path.name, damaged.name, src_dir_fd=folder, dst_dir_fd=folder)
    return damaged


def _sha256_in(folder: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
