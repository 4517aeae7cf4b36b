"""Which runs work with a cache now, what they make and read, and which builds they work on.

A run keeps a file in `.running` of the cache and holds the lock of this file. The lock ends with its process, so a
killed run claims nothing. The first line names the folders that it makes or reads: `gc` leaves these alone. Each build
that it opens adds a line: a run with other code or inputs does not remove that, also between two shards, when no lock
of the build is held. Source: choice.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.locks import lock_file, try_lock

FOLDER = ".running"
_own: dict[Path, int] = {}
"""Files of this process or of the one that it was forked from, open: to open one again would end its lock."""


@contextlib.contextmanager
def hold_cache(root: Path) -> Iterator[None]:
    """Let no run start and no other `gc` remove anything during the block."""
    with explain_disk_errors(root):
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with lock_file(root / FOLDER / "lock"):
        yield


@contextlib.contextmanager
def claim(root: Path, folders: Sequence[Path], code: Mapping[Path, str] = MappingProxyType({})) -> Iterator[None]:
    """Say during the block that this process makes or reads folders of a cache; waits while `gc` removes.

    Args:
        root: of the cache.
        folders: there or not.
        code: for those of stages, the digest of the code that makes them here.

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
            handle = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, handle)
            try_lock(handle)
            who = f"process {os.getpid()} on {platform.node()}"
            names = [folder.relative_to(root).as_posix() for folder in folders]
            codes = {folder.relative_to(root).as_posix(): digest for folder, digest in code.items()}
            os.write(handle, _line({"who": who, "folders": names, "code": codes}))
            _own[path] = handle
            stack.callback(_own.pop, path)
            temporary.rename(path)
        stack.callback(path.unlink, missing_ok=True)
        yield


def claimed_folders(root: Path) -> dict[Path, str]:
    """Return the folders that other processes make or read now, each with which process."""
    return {root / name: who for who, folders, _, _ in _others(root) for name in folders}


def other_code(root: Path, code: Mapping[Path, str]) -> dict[Path, str]:
    """Return the folders that other processes make or read with other code than this one, each with which process.

    Args:
        root: of the cache.
        code: see `claim`.
    """
    others = [(root / name, who, digest) for who, _, codes, _ in _others(root) for name, digest in codes.items()]
    return {path: who for path, who, digest in others if digest != code.get(path, digest)}


def note_build(root: Path, partial: Path, order: str) -> None:
    """Say that this run works on a build, until the run ends; a process without a claim says nothing.

    Args:
        root: of the cache.
        partial: folder of the build.
        order: digest of what it was started from.

    Raises:
        UserError: the cache cannot be written.
    """
    line = _line(_note(root, partial, order))
    for path, handle in _own.items():
        if path.parent.parent == root and line not in _content(handle):
            with explain_disk_errors(path):
                os.write(handle, line)


def own_builds(root: Path) -> list[tuple[Path, str]]:
    """Return the builds that this run has noted: folder and order, as in `note_build`."""
    contents = [_content(handle) for path, handle in _own.items() if path.parent.parent == root]
    notes = [json.loads(line) for content in contents for line in content.splitlines()[1:]]
    return [(root / note["build"], note["order"]) for note in notes]


def build_users(root: Path, partial: Path, order: str) -> list[str]:
    """Return which other processes have noted a build, see `note_build`."""
    return [who for who, _, _, notes in _others(root) if _note(root, partial, order) in notes]


def has_claim(root: Path) -> bool:
    """Whether this run has claimed folders of a cache."""
    return any(path.parent.parent == root for path in _own)


def _others(root: Path) -> Iterator[tuple[str, list[str], dict[str, str], list[dict[str, str]]]]:
    """Yield who the other processes are, which folders each has claimed, their code, and which builds it has noted."""
    for path in sorted((root / FOLDER).glob("*.json")):
        if path not in _own and _is_claimed(path):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
                first, *notes = [json.loads(line) for line in path.read_bytes().splitlines()]
                found = str(first["who"]), [str(name) for name in first["folders"]], dict(first.get("code", {})), notes
                yield found


def _note(root: Path, partial: Path, order: str) -> dict[str, str]:
    return {"build": partial.relative_to(root).as_posix(), "order": order}


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _content(handle: int) -> bytes:
    return os.pread(handle, os.fstat(handle).st_size, 0)


def _is_claimed(path: Path) -> bool:
    if path in _own:
        return True
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return path.exists()  # of another user: as far as is known, it is in use
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)
