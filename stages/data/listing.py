"""Lists of image ids, the same for every layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from split_matching.errors import DataError

SPLITS = ("train", "val")

# An id becomes part of a path and of file names in the cache: no separators, no leading dot, no white space.
# Its length leaves room for endings: file systems take names of 255 bytes.
ID = re.compile(r"\w[\w.\-]*")
LONGEST_ID = 200


def parse_list(text: str, path: Path, find: Callable[[str, str], str] | None = None) -> list[str]:
    """Read a list of image ids, one a line; lines that begin with # are comments, unless they name an image.

    Args:
        text: the list.
        path: its file, for errors only.
        find: returns the id of what a line names, given the line, and where it is for errors; "" for a comment.
            None: lines are ids.

    Returns:
        Ids, sorted, each once.

    Raises:
        DataError: the list is empty, or has a line that is no id or an id twice.
    """
    first_line: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        where = f"{path}, line {number}"
        if not line or (line[0] == "#" and not (find and find(line, where))):
            continue
        image_id = find(line, where) if find else line
        if not ID.fullmatch(image_id) or len(image_id.encode()) > LONGEST_ID:
            what = "neither an image nor an id" if find else "no image id"
            raise DataError(
                f"{where}: {line[:LONGEST_ID]!r} is {what}; expected a file name without folder and ending, such as "
                f"2007_000032{', or the path of an image' if find else ''}: correct the list"
            )
        if image_id in first_line:
            raise DataError(f"{where}: {image_id} was already on line {first_line[image_id]}; remove one")
        first_line[image_id] = number
    if not first_line:
        raise DataError(f"{path}: the list is empty; expected one image id a line: fill it or choose another split")
    return sorted(first_line)


def read_text(path: Path) -> str:
    """The text of a list file.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is no plain text.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe may wait for ever
            raise DataError(f"{path}: the list is no file; expected a text file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        raise DataError(f"{path}: the list is not text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: the list cannot be read ({error.strerror}); expected a text file") from None


def check_split(split: str) -> None:
    """Raise for anything but "train" and "val": a bug of the caller."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected train or val")
