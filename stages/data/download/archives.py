"""Takes files out of tar and zip archives: each file as a whole or not at all, and none outside the target folder.

Absolute paths, paths with `..`, links and devices are errors, as with tarfile's data filter. Members are copied one by
one and not by `extractall`, so that an interrupted run can resume; only the name and the bytes of a member are used.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from split_matching.cache.files import atomic_write
from split_matching.errors import DataError
from split_matching.stages.ground.context import Progress


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Args:
        name: its path there, below the archive's root.
        size: of the unpacked file, in bytes.
        plain: it is a regular file, no link and no device.
        open: opens it for reading.
    """

    name: str
    size: int
    plain: bool
    open: Callable[[], IO[bytes]]


def read_members(archive: Path, progress: Progress) -> Iterator[Member]:
    """Read the files of an archive, in the order in which they are stored.

    Args:
        archive: a .zip, or a tar with any compression.
        progress: called with megabytes of the archive that are done, and all.

    Yields:
        The files, links too; folders are left out.

    Raises:
        DataError: a name leads out of the folder that it is unpacked into. A damaged archive raises what its library
            raises, here or when a member is read: see `explain_damage`.
    """
    return _zip_members(archive, progress) if archive.suffix == ".zip" else _tar_members(archive, progress)


_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(ValueError, OverflowError, RuntimeError),  # numbers, names and methods of packing that make no sense
)

_DAMAGE_NUMBERS = (None, errno.EINVAL)
"""Of OSError: none is what gzip and bz2 raise for damaged bytes; the other is a place before the start of the file."""


@contextlib.contextmanager
def explain_damage(archive: Path) -> Iterator[None]:
    """Turn what the libraries raise for a damaged archive into a DataError that names it."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGE_NUMBERS:
            raise  # of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{archive}: the archive is damaged ({reason}); remove it and run again") from None


def unpack(archive: Path, folder: Path, place: Callable[[str], str | None], progress: Progress) -> int:
    """Unpack some files of an archive; files that are there already and have the right size are kept.

    Args:
        archive: the archive.
        folder: where they go.
        place: path below `folder` of a member's name; None for a file that is not wanted.
        progress: as for `read_members`.

    Returns:
        The number of files that were wanted.

    Raises:
        DataError: the archive is damaged, or a wanted member is a link or leads out of the folder.
    """
    count = 0
    with explain_damage(archive):
        for member in read_members(archive, progress):
            target = place(member.name)
            if target is None:
                continue
            if not member.plain:
                raise DataError(f"{archive}: {member.name} is a link or a device; expected plain files: not unpacked")
            _check_inside(archive, target)
            _unpack_member(member, folder / target)
            count += 1
    return count


def _unpack_member(member: Member, path: Path) -> None:
    """Unpack one file atomically, unless it is there."""
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, atomic_write(path, sync=False) as temporary, temporary.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def _tar_members(archive: Path, progress: Progress) -> Iterator[Member]:
    total = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for info in tar:
            progress(file.tell() // 1_000_000, total // 1_000_000)
            _check_inside(archive, info.name)
            if info.isdir():
                continue
            yield Member(info.name, info.size, info.isreg(), lambda info=info: _open(tar, info))  # type: ignore[misc]


def _open(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"{info.name} is not a file")
    return file


def _zip_members(archive: Path, progress: Progress) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as bundle:
        infos = bundle.infolist()
        total, done = sum(info.compress_size for info in infos), 0
        for info in infos:
            _check_inside(archive, info.filename)
            mode = info.external_attr >> 16
            plain = not mode or stat.S_ISREG(mode) or not stat.S_IFMT(mode)
            if not info.is_dir():
                yield Member(info.filename, info.file_size, plain, lambda info=info: bundle.open(info))  # type: ignore[misc]
            done += info.compress_size
            progress(done // 1_000_000, total // 1_000_000)


def _check_inside(archive: Path, name: str) -> None:
    """Raise for a path that is absolute or has `..`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else ""):
        raise DataError(
            f"{archive}: {name!r} leads out of the folder; expected paths below it: nothing more is unpacked"
        )
