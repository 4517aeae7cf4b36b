"""A user's own images: found in a folder, and read the right way up."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.configs.user_path import user_path
from split_matching.errors import DataError, one_line
from split_matching.stages.data.folder_files import PICTURES, walk
from split_matching.stages.data.images import TURNS, decode_with_orientation, orientation, read_bytes

OVERLAY, INDEX, AREAS = ".overlay.png", ".index.png", ".areas.json"
"""What the names of results end with, behind the photo's own name."""


@dataclass(frozen=True)
class Photo:
    """One image to label.

    Args:
        path: the file.
        name: path below the folder that was given; the results have it below `out`.
    """

    path: Path
    name: Path


def find_all_photos(given: Sequence[str], out: Path) -> list[Photo]:
    """Return the images that several words of a command line name, each once.

    Args:
        given: files, folders, or patterns such as `photos/*.jpg` that a shell did not replace.
        out: folder of results, which is not looked into.

    Raises:
        DataError: nothing is there, or no image; a word is an address on the web; or two images would have one name.
    """
    found: dict[Path, Photo] = {}
    for word in given:
        if re.match(r"[a-z]+://", word):
            raise DataError(f"{one_line(word)}: nothing is fetched from the web; download the image, and give the file")
        place = str(user_path(word))
        matches = [] if os.path.lexists(place) else sorted(glob.glob(place, recursive=True))  # noqa: PTH207 (absolute)
        matches = [match for match in matches if not _is_result(Path(match))]
        for path in map(Path, matches or [place]):
            for photo in find_photos(path, out):
                other = found.setdefault(photo.name, photo)
                if os.path.realpath(other.path) != os.path.realpath(photo.path):
                    raise DataError(
                        f"{one_line(str(other.path))} and {one_line(str(photo.path))} would have the same results; "
                        "label them in two runs, into two folders"
                    )
    return list(found.values())


def find_photos(given: Path, out: Path) -> list[Photo]:
    """Return the image files of a folder and all below it, or the one file, in sorted order.

    Whatever has an image's name and is no folder is among them: what cannot be read is named when its turn comes.
    Hidden files are not, nor results of earlier runs.

    Args:
        given: a file or a folder.
        out: folder of results, which is not looked into if it is below the given one.

    Raises:
        DataError: nothing is there, or no image.
    """
    if given.exists() and not given.is_dir():
        return [Photo(given, Path(given.name))]
    if not given.is_dir():
        raise DataError(f"{one_line(str(given))}: no such file or folder; give an image or a folder of images")
    own = Path(os.path.realpath(out))
    inside = Path(os.path.realpath(given)) in own.parents
    found = [
        Photo(given / name, Path(name))
        for name in walk(given)
        if name.lower().endswith(PICTURES)
        and not _is_result(given / name)
        and not (inside and own in Path(os.path.realpath(given / name)).parents)
    ]
    if not found:
        raise DataError(f"{one_line(str(given))}: no image in it; expected files that end in {', '.join(PICTURES)}")
    return found


def _is_result(path: Path) -> bool:
    """Whether a file was made of a photo by an earlier run: what is known of it then lies beside it."""
    end = next((end for end in (OVERLAY, INDEX) if path.name.endswith(end)), "")
    return bool(end) and path.with_name(f"{path.name.removesuffix(end)}{AREAS}").exists()


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Read a photograph the right way up: unlike a data set's, its EXIF orientation is applied. (H, W, 3) uint8 RGB.

    Raises:
        DataError: it cannot be read.
    """
    return decode_photo(read_bytes(path), path)


def decode_photo(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the bytes of a photograph; see `read_photo`. `path` is for errors only."""
    try:
        pixels, turned = decode_with_orientation(data, path)
    except DataError as error:
        reason = str(error).partition(": ")[2].partition(";")[0]
        raise DataError(f"{one_line(str(path))}: {reason}") from None
    turn = TURNS.get(turned)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def upright(image: Image.Image) -> Image.Image:
    """Return a Pillow image with its EXIF orientation applied."""
    image.load()  # Pillow turns a TIFF when it loads it, and then says that it is upright
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)
