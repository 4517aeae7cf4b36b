"""Lists of image ids and fingerprints of raw files, alike for every layout."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

# An id becomes part of a path and of file names in the cache: no separators, no leading dot, no white space.
ID = re.compile(r"\w[\w.\-]*")


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
        if not ID.fullmatch(image_id):
            raise DataError(
                f"{path}, line {number}: {image_id!r} is no image id; expected a file name without folder and "
                "ending, such as 2007_000032: mend the list"
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


def fingerprint(
    ids: Callable[[str], list[str]], finders: Sequence[Callable[[str], Path]], splits: Sequence[str]
) -> str:
    """Tell whether the raw files are the ones seen before, without opening them.

    Args:
        ids: the ids of a split.
        finders: give the files of an id.
        splits: which splits to look at.

    Returns:
        SHA-256 (hex) of every listed id with the sizes of its files in bytes; -1 for an absent file. Folder names
        and times do not enter it, so a copied or moved data set keeps its fingerprint.

    Raises:
        DataError: a list is missing or unusable.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split}\n".encode())
        for image_id in ids(split):
            digest.update(f"{image_id} {[_size(find, image_id) for find in finders]}\n".encode())
    return digest.hexdigest()


def _size(find: Callable[[str], Path], image_id: str) -> int:
    try:
        return find(image_id).stat().st_size
    except (DataError, OSError):
        return -1


def refuse_split(split: str) -> None:
    """Raise for anything but "train" and "val": a bug of the caller."""
    if split not in ("train", "val"):
        raise ValueError(f"split is {split!r}; expected train or val")
