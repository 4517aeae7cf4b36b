"""Which runs work with a cache now, and what they make and read: `gc` leaves that alone.

A run keeps a file in `.running` of the cache that names its folders, and holds the lock of this file. The lock ends
with its process, so a killed run claims nothing. Source: choice.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.locks import lock_file, try_lock

FOLDER = ".running"
_own: set[str] = set()
"""Files of this process or of the one that it was forked from: to open one again would end its lock."""


@contextlib.contextmanager
def hold_cache(root: Path) -> Iterator[None]:
    """Let no run start and no other `gc` remove anything during the block."""
    with explain_disk_errors(root):
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with lock_file(root / FOLDER / "lock"):
        yield


@contextlib.contextmanager
def claim(root: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Say during the block that this process makes or reads folders of a cache; waits while `gc` removes.

    Args:
        root: of the cache.
        folders: there or not.

    Raises:
        UserError: the cache cannot be written.
    """
    name = f"{secrets.token_hex(8)}.json"
    path, temporary = root / FOLDER / name, root / FOLDER / f".{name}.tmp"
    with contextlib.ExitStack() as stack:
        with hold_cache(root), explain_disk_errors(path):
            for old in (root / FOLDER).glob("*.json"):
                if not _is_claimed(old):
                    old.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, handle)
            try_lock(handle)
            who = f"process {os.getpid()} on {platform.node()}"
            names = [folder.relative_to(root).as_posix() for folder in folders]
            os.write(handle, json.dumps({"who": who, "folders": names}).encode())
            _own.add(name)
            stack.callback(_own.discard, name)
            temporary.rename(path)
        stack.callback(path.unlink, missing_ok=True)
        yield


def claimed_folders(root: Path) -> dict[Path, str]:
    """Return the folders that other processes make or read now, each with which process."""
    found: dict[Path, str] = {}
    for path in sorted((root / FOLDER).glob("*.json")):
        if path.name not in _own and _is_claimed(path):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                value = json.loads(path.read_bytes())
                found.update({root / name: str(value["who"]) for name in value["folders"]})
    return found


def _is_claimed(path: Path) -> bool:
    if path.name in _own:
        return True
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return path.exists()  # of another user: as far as is known, it is in use
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)
