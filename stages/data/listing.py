"""Lists of image ids and fingerprints of raw files, alike for every layout."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from split_matching.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

# An id becomes part of a path and of file names in the cache: no separators, no leading dot, no white space.
# Its length leaves room for endings: file systems take names of 255 bytes.
ID = re.compile(r"\w[\w.\-]*")
LONGEST_ID = 200


def parse_list(text: str, path: Path) -> list[str]:
    """Read a list of image ids, one a line.

    Args:
        text: the list.
        path: its file, for errors only.

    Returns:
        Ids, sorted, each once.

    Raises:
        DataError: the list is empty, or has a line that is no id or an id twice.
    """
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        image_id = line.strip()
        if not image_id:
            continue
        if not ID.fullmatch(image_id) or len(image_id.encode()) > LONGEST_ID:
            raise DataError(
                f"{path}, line {number}: {image_id[:LONGEST_ID]!r} is no image id; expected a file name without "
                "folder and ending, such as 2007_000032: mend the list"
            )
        if image_id in first_line:
            raise DataError(f"{path}, line {number}: {image_id} was already on line {first_line[image_id]}; remove one")
        first_line[image_id] = number
    if not first_line:
        raise DataError(f"{path}: the list is empty; expected one image id a line: mend it or choose another split")
    return sorted(first_line)


def read_text(path: Path) -> str:
    """The text of a list file.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is no plain text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error}); expected plain text") from None


@dataclass(frozen=True)
class Fingerprint:
    """What can be told of raw files without opening them. Folder names do not enter, so a moved data set keeps it.

    Args:
        sizes: SHA-256 (hex) of every listed id with the sizes of its files in bytes.
        times: the same of the times of the last change; a copy may have others.
    """

    sizes: str
    times: str


Stat = tuple[int, int]
"""Size in bytes and time of the last change in ns of a file."""

ABSENT: Stat = (-1, -1)


def fingerprint(rows: Iterable[tuple[str, str, Stat, Stat]]) -> Fingerprint:
    """Tell whether the raw files may be the ones seen before.

    Args:
        rows: for each image its split, its id, and what the folders say of its image and its mask.
    """
    sizes, times = hashlib.sha256(), hashlib.sha256()
    for split, image_id, image, mask in rows:
        sizes.update(f"{split} {image_id} {image[0]} {mask[0]}\n".encode())
        times.update(f"{split} {image_id} {image[1]} {mask[1]}\n".encode())
    return Fingerprint(sizes.hexdigest(), times.hexdigest())


def stats(folder: Path) -> dict[str, Stat]:
    """Every file of a folder by name; none for a folder that is missing. One pass: there may be 100,000 of them."""
    found: dict[str, Stat] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # a link that leads nowhere
                seen = entry.stat()
                if stat.S_ISREG(seen.st_mode):
                    found[entry.name] = seen.st_size, seen.st_mtime_ns
    return found


def stat_of(find: Callable[[str], Path], image_id: str) -> Stat:
    """The file of an image that `find` gives; ABSENT if there is none."""
    try:
        seen = find(image_id).stat()
    except (DataError, OSError):
        return ABSENT
    return seen.st_size, seen.st_mtime_ns


def refuse_split(split: str) -> None:
    """Raise for anything but "train" and "val": a bug of the caller."""
    if split not in ("train", "val"):
        raise ValueError(f"split is {split!r}; expected train or val")
