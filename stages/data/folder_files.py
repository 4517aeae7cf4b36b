"""Files below a folder, and the image ids that their names give."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from split_matching.errors import DataError

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2")

FORBIDDEN = "cannot be read (permission denied); check its permissions"

LEFT_BEHIND = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
"""Folders and files that systems leave beside a user's own."""

_UNSAFE = re.compile(r"[^\w.\-]")


def make_id(name: str) -> str:
    """Return the image id of a path without ending: dots for slashes, _ for signs that no file name should need.

    An accent may be one sign with its letter or a sign of its own (as Macs write names): both give the same id.
    """
    plain = _UNSAFE.sub("_", unicodedata.normalize("NFC", name).replace(os.sep, "."))
    return plain if re.match(r"\w", plain) else f"_{plain}"


def is_folder(path: Path) -> bool:
    """Whether there is such a folder.

    Raises:
        DataError: it may not be looked into, so nobody can tell.
    """
    try:
        os.scandir(path).close()
    except PermissionError:
        raise DataError(f"{path}: {FORBIDDEN}") from None
    except OSError:
        return False
    return True


def walk(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, relative to it, sorted; without hidden ones and `LEFT_BEHIND`.

    Links to folders are followed, but for one to a folder that it lies in: that would have no end.

    Raises:
        DataError: a folder may not be read.
    """
    found: list[str] = []
    _walk(str(folder), "", (), found)
    return sorted(found)


def _walk(base: str, below: str, above: tuple[str, ...], found: list[str]) -> None:
    real = os.path.realpath(base)
    if real in above:
        return
    try:
        entries = list(os.scandir(base))
    except PermissionError:
        raise DataError(f"{base}: {FORBIDDEN}") from None
    except OSError:
        return
    for entry in entries:
        if entry.name[0] == "." or entry.name in LEFT_BEHIND:
            continue
        if _leads_to_folder(entry):
            _walk(entry.path, f"{below}{entry.name}{os.sep}", (*above, real), found)
        else:
            found.append(f"{below}{entry.name}")


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: opening it says so
        return False


def describe_endings(names: Sequence[str]) -> str:
    """Return what files end with and how many do, the most frequent first: ".jp2 (3), no ending (1)"."""
    endings = Counter(Path(name).suffix.lower() or "no ending" for name in names)
    return ", ".join(f"{ending} ({count})" for ending, count in endings.most_common(5))


FOREIGN = {
    ".json": "polygons of LabelMe or COCO; labelme2voc.py of LabelMe, or pycocotools, makes index PNGs of them",
    ".xml": "polygons or boxes; the tool that made them (CVAT, LabelMe) exports index PNGs as `segmentation mask`",
    ".npy": "an array; PIL.Image.fromarray(numpy.load(NAME).astype('uint8')).save('NAME.png') makes an index PNG",
    ".txt": "polygons or boxes of YOLO; DetectionDataset.from_yolo(..., force_masks=True) of `supervision` reads them",
    ".mat": "an array of Matlab; scipy.io.loadmat reads it, and PIL.Image.fromarray makes an index PNG",
}
"""Annotations that are no masks, and what makes masks of them."""

OTHER_PICTURES = {
    b"ftyp": "a HEIC or AVIF picture; convert it",  # behind its size
    b"II*\0": "a TIFF of a kind that is not read; save it as PNG",
    b"MM\0*": "a TIFF of a kind that is not read; save it as PNG",
    b"8BPS": "a document of Photoshop; export it as PNG",
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull`",
}
"""What files that cannot be read begin with, and what they are."""

_FILMS = (b"iso", b"mp4", b"avc", b"M4V", b"qt ", b"3gp")
"""What stands behind `ftyp` in films."""

_STARTS = {
    b"{": ".json",
    b"[": ".json",
    b"<?xml": ".xml",
    b"<annotation": ".xml",
    b"\x93NUMPY": ".npy",
    b"MATLAB": ".mat",
}


def describe_bytes(data: bytes) -> str:
    """Return what a file that is not read is by its first bytes; where that is known, what to do follows after a ;."""
    start = data[:100].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image"
    for sign, meaning in OTHER_PICTURES.items():
        if data.startswith(sign) or (sign == b"ftyp" and data[4:8] == sign):
            return "a film; take images out of it" if data[8:11] in _FILMS else meaning
    kind = next((ending for sign, ending in _STARTS.items() if start.startswith(sign)), "")
    return f"not an image but {FOREIGN[kind]}" if kind else "not an image"


def add_affixes(stem: str, prefix: str, suffix: str) -> str:
    """Return a path whose file's name begins and ends with something more."""
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{prefix}{name}{suffix}"


def strip_affixes(path: str, prefix: str, suffix: str) -> str:
    """Return a path without what its file's name begins and ends with, in any case of letters; "" if it does not."""
    folder, slash, name = path.rpartition("/")
    stem = name[len(prefix) : len(name) - len(suffix)]
    fits = stem and name.lower() == f"{prefix}{stem}{suffix}".lower()
    return f"{folder}{slash}{stem}" if fits else ""
