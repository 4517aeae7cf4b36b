"""Any other data set: a folder of images and a folder of index masks with the same names.

    ROOT/images/train/a.jpg   ROOT/masks/train/a.png   data.train_split=train: a folder's name, in both
    ROOT/images/b.jpg         ROOT/masks/b.png         data.train_split=train.txt: a list of ids, below the root

Folders may be nested. The id of an image is its path below `data.image_folder` without `data.image_suffix` (or without
its ending), with dots for slashes: `train.a`, `b`. So equal names in two splits are two images. Source: choice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from split_matching.errors import DataError
from split_matching.stages.data.listing import ID, check_split, parse_list, read_text
from split_matching.stages.data.raw_files import Fingerprint, make_fingerprint, stat_file
from split_matching.stages.data.source import Layout

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class FolderSource:
    """Files of a data set in two parallel folders.

    Args:
        data: names of the folders, the ends of the files' names, and the splits.
        root: the folder below which all of them lie.

    Raises:
        DataError: there is no folder of images.
    """

    def __init__(self, data: Any, root: Path) -> None:
        self._data, self._root = data, root
        self._images = root / data.image_folder
        if not self._images.is_dir():
            found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
            there = f"there is {', '.join(found)}" if found else "there is no folder"
            raise DataError(
                f"{self._images}: no such folder of images ({there}); set where they are, below data.root: "
                "--set data.image_folder=NAME"
            )

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Path below the folder of images, by id."""
        suffix = self._data.image_suffix
        files: dict[str, Path] = {}
        for name in _walk(self._images):
            if not name.lower().endswith(PICTURES) or not name.endswith(suffix):
                continue
            path = Path(name)
            stem = name.removesuffix(suffix) if suffix else str(path.with_suffix(""))
            image_id = stem.replace(os.sep, ".")
            if not ID.fullmatch(image_id):
                raise DataError(
                    f"{self._images / path}: {image_id!r} cannot be an image id; use letters, digits, _, - and dots: "
                    "rename the file"
                )
            if image_id in files:
                raise DataError(
                    f"{self._images / path} and {self._images / files[image_id]} both have the id {image_id}; "
                    "rename one"
                )
            files[image_id] = path
        return files

    def ids(self, split: str) -> list[str]:
        """Image ids of a split.

        Args:
            split: "train" or "val"; the config says which list or folder that is.

        Returns:
            Ids, sorted, each once.

        Raises:
            DataError: the list or folder is missing or empty, or the list has a line that is no id or an id twice.
        """
        check_split(split)
        name = getattr(self._data, f"{split}_split")
        return self._read_list(split, name) if name.endswith(".txt") else self._find_in_folder(split, name)

    def _read_list(self, split: str, name: str) -> list[str]:
        path = self._root / name
        try:
            text = read_text(path)
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such list; expected one image id a line. Add it, or name another list or a folder of "
                f"images: --set data.{split}_split=NAME"
            ) from None
        # a list of nested folders names paths, and ids have dots for slashes; a path with .. is kept, to be an error
        lines = [line if ".." in line else line.replace("/", ".") for line in text.splitlines()]
        return parse_list("\n".join(lines), path)

    def _find_in_folder(self, split: str, name: str) -> list[str]:
        folder = self._images / name
        if not folder.is_dir():
            there = sorted(path.name for path in self._images.iterdir() if path.is_dir())
            raise DataError(
                f"{folder}: no such folder of images (there is {', '.join(there) or 'none'}); name one, or a list "
                f"such as {split}.txt: --set data.{split}_split=NAME"
            )
        parts = Path(os.path.normpath(name)).parts
        found = sorted(image_id for image_id, path in self._files.items() if path.parts[: len(parts)] == parts)
        if not found:
            end = self._data.image_suffix or "a picture's ending"
            raise DataError(f"{folder}: no file that ends with {end}; expected images: see data.image_suffix")
        return found

    def image_path(self, image_id: str) -> Path:
        """The image of an id.

        Raises:
            DataError: no such file.
        """
        if image_id in self._files:
            return self._images / self._files[image_id]
        close = [other for other in self._files if other.endswith(f".{image_id}")][:1]
        meant = f"did you mean {close[0]}, " if close else "ids are names without ending, such as "
        example = "with its folder?" if close else next(iter(sorted(self._files)), "a")
        raise DataError(
            f"{self._images}: no image {image_id} though its split names it ({meant}{example}); "
            "add the file or correct the list"
        )

    def mask_path(self, image_id: str) -> Path:
        """The mask of an id.

        Raises:
            DataError: no such file or folder.
        """
        folder = self._root / self._data.mask_folder
        path = folder / f"{self._stem(self.image_path(image_id))}{self._data.mask_suffix}"
        if path.is_file():
            return path
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of masks; set where they are: --set data.mask_folder=NAME")
        raise DataError(
            f"{path}: the mask is absent though there is its image; add it, or set what mask names end with: "
            "--set data.mask_suffix=_mask.png"
        )

    def _stem(self, image: Path) -> str:
        """Path of an image below its folder, without what its name ends with."""
        path, suffix = image.relative_to(self._images), self._data.image_suffix
        return str(path).removesuffix(suffix) if suffix else str(path.with_suffix(""))

    def mask_table(self, mask: Path) -> Sequence[int] | None:
        """None: masks hold the class list's ids."""
        return None

    def fingerprint(self) -> Fingerprint:
        """Over both lists, with sizes and times of their files."""
        return make_fingerprint(
            (split, image_id, stat_file(self.image_path, image_id), stat_file(self.mask_path, image_id))
            for split in ("train", "val")
            for image_id in self.ids(split)
        )

    def stray_masks(self) -> list[Path]:
        """Mask files that belong to no image file."""
        folder, suffix = self._root / self._data.mask_folder, self._data.mask_suffix
        stems = {self._stem(self._images / path) for path in self._files.values()}
        return [folder / name for name in _walk(folder) if name.endswith(suffix) and name[: -len(suffix)] not in stems]


def _walk(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; hidden ones are left out. Links are followed."""
    found: list[str] = []
    entered: set[str] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        # a link to a folder above would be followed for ever
        folders[:] = [] if os.path.realpath(base) in entered else [name for name in folders if name[0] != "."]
        if os.path.realpath(base) not in entered:
            found += [os.path.relpath(f"{base}{os.sep}{name}", folder) for name in files if name[0] != "."]
        entered.add(os.path.realpath(base))
    return sorted(found)


_PLACES = ("image_folder", "image_suffix")

LAYOUT = Layout(
    FolderSource,
    images=_PLACES,
    masks=(*_PLACES, "mask_folder", "mask_suffix"),
    lists=(*_PLACES, "train_split", "val_split"),
)
