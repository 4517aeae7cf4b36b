"""COCO-Stuff 164k: COCO's images of 2017, and a PNG of thing and stuff ids for each.

    images/{train2017,val2017}/*.jpg          or without images/, as COCO's own zips unpack
    annotations/{train2017,val2017}/*.png     or stuffthingmaps/...: the published maps, raw ids 0..181 and 255
                                              or *_labelTrainIds.png: converted maps, train ids 0..170 and 255

The class list has the 171 train ids; raw maps are translated when they are read, so nothing has to be converted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from split_matching.errors import DataError
from split_matching.stages.data.listing import check_split
from split_matching.stages.data.raw_files import ABSENT, Fingerprint, Stat, make_fingerprint, stat_folder
from split_matching.stages.data.source import Layout

FOLDERS = {"train": "train2017", "val": "val2017"}
IMAGE_PLACES = ("images", "")
MASK_PLACES = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017")
CONVERTED = "_labelTrainIds.png"
DOWNLOAD = "python run_pipeline.py PrepareDataset --dataset coco_stuff --download"

UNUSED_RAW_IDS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""11 of COCO's 91 things, which nobody annotated: street sign, hat, shoe, eye glasses, plate, mirror, window, desk,
door, blender, hair brush. Raw ids are COCO's less one. Source: the labels of the COCO-Stuff project."""

RAW_IDS = tuple(raw for raw in range(182) if raw not in UNUSED_RAW_IDS)
"""Raw id of each of the 171 train ids, in order."""

VOID = 255
TRAIN_ID = tuple(RAW_IDS.index(raw) if raw in RAW_IDS else VOID if raw == VOID else -1 for raw in range(256))
"""Train id of each raw id; -1 for those that may not occur."""


class CocoStuffSource:
    """Files in the layout of COCO-Stuff 164k.

    Args:
        data: nothing of it is needed.
        root: the folder that holds images and maps.

    Raises:
        DataError: the layout is not there.
    """

    def __init__(self, data: Any, root: Path) -> None:
        self.root = root
        self._images = _locate(root, IMAGE_PLACES, "images/train2017 or train2017 with COCO's images")

    @cached_property
    def _masks(self) -> Path:
        return _locate(
            self.root, MASK_PLACES, "annotations/train2017 or stuffthingmaps/train2017 with COCO-Stuff's maps"
        )

    def ids(self, split: str) -> list[str]:
        """Image ids of a split: the images in its folder.

        Args:
            split: "train" or "val".

        Returns:
            Ids, sorted, each once.

        Raises:
            DataError: the folder is missing or has no JPEG.
        """
        check_split(split)
        folder = self._images / FOLDERS[split]
        try:
            found = sorted(path.stem for path in folder.iterdir() if path.suffix == ".jpg")
        except OSError:
            found = []
        if not found:
            raise DataError(f"{folder}: no such folder, or no .jpg in it; download the images: {DOWNLOAD}")
        return found

    def image_path(self, image_id: str) -> Path:
        """The image of an id.

        Raises:
            DataError: no such file.
        """
        for folder in FOLDERS.values():
            path = self._images / folder / f"{image_id}.jpg"
            if path.is_file():
                return path
        raise DataError(f"{self._images}: no image {image_id}.jpg in train2017 or val2017; add the file")

    def mask_path(self, image_id: str) -> Path:
        """The map of an id, the converted one where there are both.

        Raises:
            DataError: no such file or folder.
        """
        folder = self._masks / self.image_path(image_id).parent.name
        for name in (f"{image_id}{CONVERTED}", f"{image_id}.png"):
            if (folder / name).is_file():
                return folder / name
        raise DataError(f"{folder / image_id}.png: the map is absent, and so is {image_id}{CONVERTED}; add the file")

    def mask_table(self, mask: Path) -> Sequence[int] | None:
        """Train ids of raw ids for a published map, None for a converted one."""
        return None if mask.name.endswith(CONVERTED) else TRAIN_ID

    def fingerprint(self) -> Fingerprint:
        """Over both folders, with sizes and times of their files."""
        rows: list[tuple[str, str, Stat, Stat]] = []
        for split, folder in FOLDERS.items():
            images, masks = stat_folder(self._images / folder), stat_folder(self._masks / folder)
            for image_id in self.ids(split):
                mask = masks.get(f"{image_id}{CONVERTED}", masks.get(f"{image_id}.png", ABSENT))
                rows.append((split, image_id, images.get(f"{image_id}.jpg", ABSENT), mask))
        return make_fingerprint(rows)

    def shared_masks(self, ids: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """None: a mask has its image's id as name."""
        return []

    def stray_masks(self) -> list[Path]:
        """Maps that belong to no image file."""
        strays = []
        for split, folder in FOLDERS.items():
            images = set(self.ids(split))
            maps = sorted((self._masks / folder).glob("*.png"))
            strays += [m for m in maps if m.name.removesuffix(CONVERTED).removesuffix(".png") not in images]
        return strays

    def left_out(self) -> list[str]:
        """None: images have one ending."""
        return []


def find_place(root: Path, names: Sequence[str]) -> Path | None:
    """The first of some folders below the root that holds a split; None if none does."""
    places = (root / name for name in names if any((root / name / folder).is_dir() for folder in FOLDERS.values()))
    return next(places, None)


def _locate(root: Path, names: Sequence[str], expected: str) -> Path:
    place = find_place(root, names)
    if place is not None:
        return place
    what = f"holds no {expected}" if root.is_dir() else "no such folder"
    raise DataError(f"{root}: {what}; download it: {DOWNLOAD}; or set where it is: --set data.root=PATH")


LAYOUT = Layout(CocoStuffSource)
