"""Fingerprints of raw files: whether they may be the ones that were read before, without opening them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from split_matching.errors import DataError


@dataclass(frozen=True)
class Fingerprint:
    """What is known of raw files without opening them. Folder names do not enter, so a moved data set keeps it.

    Args:
        sizes: SHA-256 (hex) of every listed id with the sizes of its files in bytes, and of the table of colours.
        times: the same of the times of the last change; a copy may have others.
    """

    sizes: str
    times: str


Stat = tuple[int, int]
"""Size in bytes and time of the last change in ns of a file."""

ABSENT: Stat = (-1, -1)


def make_fingerprint(
    rows: Iterable[tuple[str, str, Stat, Stat]], colours: Mapping[int, int] = MappingProxyType({})
) -> Fingerprint:
    """Make the fingerprint of the listed files.

    Args:
        rows: for each image its split, its id, and the sizes and times of its image and its mask.
        colours: the id of each colour, where masks have colours.
    """
    sizes, times = hashlib.sha256(), hashlib.sha256()
    for split, image_id, image, mask in rows:
        sizes.update(f"{split} {image_id} {image[0]} {mask[0]}\n".encode())
        times.update(f"{split} {image_id} {image[1]} {mask[1]}\n".encode())
    for colour, raw in sorted(colours.items()):
        sizes.update(f"colour {colour:06x} {raw}\n".encode())
    return Fingerprint(sizes.hexdigest(), times.hexdigest())


def stat_folder(folder: Path) -> dict[str, Stat]:
    """Return size and time of every file of a folder, by name; none for a folder that is missing.

    One pass over the folder, as there may be 100,000 files.
    """
    found: dict[str, Stat] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # a link that leads nowhere
                seen = entry.stat()
                if stat.S_ISREG(seen.st_mode):
                    found[entry.name] = seen.st_size, seen.st_mtime_ns
    return found


def stat_file(find: Callable[[str], Path], image_id: str) -> Stat:
    """Return size and time of the file that `find` gives for an image; ABSENT if there is none."""
    try:
        seen = find(image_id).stat()
    except (DataError, OSError):
        return ABSENT
    return seen.st_size, seen.st_mtime_ns
