"""Downloads one archive: with progress, checked by its MD5; an interrupted download resumes.

On urllib, because torchvision's downloader does not resume; its functions compute the checksums, and its constants
name VOC's and SBD's archives.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.files import parse_json, replace_file
from split_matching.cache.locks import try_lock
from split_matching.errors import DataError
from split_matching.stages.ground.context import Progress

Phase = Callable[[str, str], AbstractContextManager[Progress]]
"""Begins a piece of work that shows progress: `with phase("benchmark.tgz", "MB") as progress`."""

CHUNK = 1 << 20
MEGABYTE = 1_000_000
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 5  # in a row without a new byte
UNREACHED = 2  # attempts without any answer: most likely there is no connection at all
PAUSE = 2.0  # seconds before the second attempt, doubled for each further one

_NUMBER = re.compile(r"[0-9]{1,18}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Archive:
    """An archive on a server.

    Args:
        url: where it is.
        name: file name here.
        md5: hex digest; None where no one publishes it: then only the archive's own checksums are verified.
    """

    url: str
    name: str
    md5: str | None


def fetch(archive: Archive, folder: Path, phase: Phase) -> Path:
    """Download an archive unless it is there.

    Args:
        archive: which.
        folder: where it goes; made if need be. A file of this name that was put there by hand is used.
        phase: shows progress.

    Returns:
        The file, checked.

    Raises:
        DataError: no connection, no such file on the server, no room, or a wrong checksum.
        UserError: the file cannot be written.
    """
    path = folder / archive.name
    if path.exists():
        _check_md5(path, archive, "remove it and run again, or put the right file there")
        return path
    with explain_write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{archive.name}.part"
        with part.open("ab") as file:
            _lock(file, part)
            with phase(archive.name, "MB") as progress:
                _complete(archive, file, part, progress)
        try:
            _check_md5(part, archive, "it was removed: run again to download it again")
        except DataError:
            part.unlink()
            raise
        finally:
            _validator_file(part).unlink(missing_ok=True)
        replace_file(part, path)
    return path


def _complete(archive: Archive, file: IO[bytes], part: Path, progress: Progress) -> None:
    """Append to the file until it is whole; a connection that breaks is opened again while that helps."""
    failures, answered = 0, False
    while True:
        before = os.fstat(file.fileno()).st_size
        try:
            if _append(archive, file, part, progress):
                return
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise DataError(
                    f"{archive.url}: the server answers {error.code} {error.reason}; {_explain_by_hand(part)}"
                ) from None
            reason, answered = f"the server answers {error.code}", True
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: odd addresses
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        file.flush()
        grown = os.fstat(file.fileno()).st_size > before
        failures, answered = 1 if grown else failures + 1, answered or grown
        if failures >= (ATTEMPTS if answered else UNREACHED):
            have = os.fstat(file.fileno()).st_size / MEGABYTE
            kept = f" after {have:.1f} MB, which are kept: the same command resumes" if have else ", try again later"
            raise DataError(f"{archive.url}: {reason}{kept}; or {_explain_by_hand(part)}")
        time.sleep(PAUSE * 2 ** (failures - 1))


def _append(archive: Archive, file: IO[bytes], part: Path, progress: Progress) -> bool:
    """One request: append what the server sends, and say whether the file is whole."""
    start = os.fstat(file.fileno()).st_size
    validator = _read_validator(part)
    if start and not validator:  # nothing tells whether the rest would be of the same file
        start = 0
        file.truncate(0)
    request = urllib.request.Request(archive.url, headers={"User-Agent": "split-matching"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        # nothing is left to send: the file is whole, or not of this size any more
        total = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", ""))
        if total and int(total[1]) == start:
            return True
        file.truncate(0)
        return False
    with response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server sends the whole file
            file.truncate(0)
            _validator_file(part).write_text(json.dumps(_validator(response.headers)), encoding="utf-8")
        length = response.headers.get("Content-Length")
        if length and not _NUMBER.fullmatch(length):
            raise DataError(
                f"{archive.url}: the server gives the length {length[:40]!r}, no number; {_explain_by_hand(part)}"
            )
        total_bytes = start + int(length) if length else 0
        _check_room(part, total_bytes - start)
        return _copy(response, file, start, total_bytes, progress)


def _copy(response: Any, file: IO[bytes], done: int, total: int, progress: Progress) -> bool:
    """Append a response to the file; False if it ended early."""
    progress(done // MEGABYTE, total // MEGABYTE)
    while chunk := response.read(CHUNK):
        file.write(chunk)
        done += len(chunk)
        progress(done // MEGABYTE, total // MEGABYTE)
    file.flush()
    return not total or done == total


def _validator(headers: Any) -> str:
    """What tells one version of the server's file from another: a strong ETag, or the time it was changed."""
    etag = headers.get("ETag", "")
    return str(etag) if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_validator(part: Path) -> str:
    try:
        return str(parse_json(_validator_file(part).read_bytes()))
    except (OSError, ValueError):
        return ""


def _check_md5(path: Path, archive: Archive, remedy: str) -> None:
    """Raise for a file with another MD5."""
    if archive.md5 is None:
        return
    from torchvision.datasets.utils import calculate_md5

    found = calculate_md5(path)
    if found != archive.md5:
        raise DataError(f"{path}: the MD5 is {found}; expected {archive.md5}, of {archive.url}: {remedy}")


def _check_room(part: Path, wanted: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted > free:
        raise DataError(
            f"{part}: {wanted / MEGABYTE:.0f} MB are to come, but {free / MEGABYTE:.0f} MB are free; make room, or "
            "choose another place: --set data.root=PATH"
        )


def _lock(file: IO[bytes], part: Path) -> None:
    if not try_lock(file.fileno()):
        raise DataError(f"{part}: another process is downloading it; wait for that one")


def _explain_by_hand(part: Path) -> str:
    return f"get the file by other means, put it at {part.with_suffix('')} and run again"


def explain_write_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn an error of the file system below a path into one line for the user."""
    return explain_disk_errors(path, option="--set data.root=PATH; what is there is kept, and the same command resumes")
