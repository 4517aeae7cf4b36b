"""The PASCAL VOC 2012 layout: JPEGImages, a folder of index masks, and lists in ImageSets/Segmentation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from configs.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

# An id becomes part of a path and of file names in the cache: no separators, no leading dot, no white space.
_ID = re.compile(r"\w[\w.\-]*")


class DataSettings(Protocol):
    """The fields of `data` that a source may read."""

    @property
    def train_split(self) -> str:
        """Name of the training list."""
        ...

    @property
    def val_split(self) -> str:
        """Name of the validation list."""
        ...

    @property
    def mask_folder(self) -> str:
        """Folder of the masks."""
        ...


class VocSource:
    """Files in the VOC layout.

    Args:
        data: names of the lists and of the mask folder.
        root: the folder that holds VOCdevkit/VOC2012 or VOC2012, or VOC2012 itself.

    Raises:
        DataError: the layout is not there.
    """

    def __init__(self, data: DataSettings, root: Path) -> None:
        self._data = data
        self.root = _locate(root)

    def ids(self, split: str) -> list[str]:
        """Image ids of a split.

        Args:
            split: "train" or "val"; the config says which list that is.

        Returns:
            Ids, sorted, each once.

        Raises:
            DataError: the list is missing, empty, or has a line that is no id or an id twice.
        """
        path = self._list_path(split)
        first_line: dict[str, int] = {}
        for number, line in enumerate(self._read_list(path, split).splitlines(), start=1):
            image_id = line.strip()
            if not image_id:
                continue
            if not _ID.fullmatch(image_id):
                raise DataError(
                    f"{path}, line {number}: {image_id!r} is no image id; expected a file name without folder and "
                    "ending, such as 2007_000032: mend the list"
                )
            if image_id in first_line:
                raise DataError(
                    f"{path}, line {number}: {image_id} was already on line {first_line[image_id]}; remove one"
                )
            first_line[image_id] = number
        if not first_line:
            raise DataError(f"{path}: the list is empty; expected one image id a line: mend it or choose another split")
        return sorted(first_line)

    def image_path(self, image_id: str) -> Path:
        """The image of an id.

        Raises:
            DataError: no such file.
        """
        folder = self.root / "JPEGImages"
        for ending in IMAGE_ENDINGS:
            path = folder / f"{image_id}{ending}"
            if path.is_file():
                return path
        raise DataError(
            f"{folder / image_id}.jpg: the image is absent though its split names it; "
            "add the file or remove the id from the list"
        )

    def mask_path(self, image_id: str) -> Path:
        """The mask of an id.

        Raises:
            DataError: no such file or folder.
        """
        folder = self.root / self._data.mask_folder
        path = folder / f"{image_id}.png"
        if path.is_file():
            return path
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such mask folder; expected index masks in it, or choose another: "
                "--set data.mask_folder=SegmentationClass"
            )
        raise DataError(
            f"{path}: the mask is absent though its split names it; add the file or remove the id from the list"
        )

    def fingerprint(self, splits: Sequence[str] = ("train", "val")) -> str:
        """Tell whether the raw files are the ones seen before, without opening them.

        Args:
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
            for image_id in self.ids(split):
                sizes = [self._size(find, image_id) for find in (self.image_path, self.mask_path)]
                digest.update(f"{image_id} {sizes}\n".encode())
        return digest.hexdigest()

    @staticmethod
    def _size(find: Callable[[str], Path], image_id: str) -> int:
        try:
            return find(image_id).stat().st_size
        except (DataError, OSError):
            return -1

    def _list_path(self, split: str) -> Path:
        names = {"train": "train_split", "val": "val_split"}
        if split not in names:
            raise ValueError(f"split is {split!r}; expected train or val")
        return self.root / "ImageSets" / "Segmentation" / f"{getattr(self._data, names[split])}.txt"

    def _read_list(self, path: Path, split: str) -> str:
        try:
            return path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            there = sorted(other.stem for other in path.parent.glob("*.txt"))
            raise DataError(
                f"{path}: no such list; expected one image id a line. Add it, or choose one that is there "
                f"({', '.join(there) or 'none'}): --set data.{split}_split=NAME"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the list cannot be read ({error}); expected plain text") from None


def _locate(root: Path) -> Path:
    """The folder that holds JPEGImages."""
    for candidate in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        if (candidate / "JPEGImages").is_dir():
            return candidate
    what = "holds no VOCdevkit/VOC2012/JPEGImages" if root.is_dir() else "no such folder"
    raise DataError(f"{root}: {what}; set the folder that holds VOCdevkit/: --set data.root=PATH")
