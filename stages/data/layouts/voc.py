"""The PASCAL VOC 2012 layout: JPEGImages, a folder of index masks, and lists in ImageSets/Segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from split_matching.errors import DataError
from split_matching.stages.data.listing import check_split, parse_list, read_text
from split_matching.stages.data.raw_files import ABSENT, Fingerprint, Stat, make_fingerprint, stat_folder
from split_matching.stages.data.source import Layout

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
AUG_LIST, AUG_MASKS = "trainaug", "SegmentationClassAug"
DOWNLOAD = "python run_pipeline.py PrepareDataset --dataset voc --download"
WITHOUT_SBD = "--set data.train_split=train data.mask_folder=SegmentationClass"


class VocSource:
    """Files in the VOC layout.

    Args:
        data: names of the lists and of the mask folder.
        root: the folder that holds VOCdevkit/VOC2012 or VOC2012, or VOC2012 itself.

    Raises:
        DataError: the layout is not there.
    """

    def __init__(self, data: Any, root: Path) -> None:
        self._data = data
        self.root = _locate(root)
        self._images = self.root / "JPEGImages"
        self._ids: dict[str, list[str]] = {}

    def ids(self, split: str) -> list[str]:
        """Image ids of a split.

        Args:
            split: "train" or "val"; the config says which list that is.

        Returns:
            Ids, sorted, each once; read once, and kept.

        Raises:
            DataError: the list is missing, empty, or has a line that is no id or an id twice.
        """
        check_split(split)
        if split not in self._ids:
            self._ids[split] = self._read_ids(split)
        return list(self._ids[split])

    def _read_ids(self, split: str) -> list[str]:
        name = getattr(self._data, f"{split}_split")
        path = self.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        try:
            return parse_list(read_text(path), path)
        except FileNotFoundError:
            there = sorted(other.stem for other in path.parent.glob("*.txt"))
            derive = f"Make it with SBD's masks: {DOWNLOAD}. Or add it" if name == AUG_LIST else "Add it"
            raise DataError(
                f"{path}: no such list; expected one image id a line. {derive}, or choose one that is there "
                f"({', '.join(there) or 'none'}): --set data.{split}_split=NAME"
            ) from None

    def image_path(self, image_id: str) -> Path:
        """The image of an id.

        Raises:
            DataError: no such file.
        """
        folder = self._images
        for ending in IMAGE_ENDINGS:
            path = folder / f"{image_id}{ending}"
            if path.is_file():
                return path
        remedy = "add the file or remove the id from the list"
        if image_id.endswith(IMAGE_ENDINGS) and (folder / image_id).is_file():
            remedy = f"leave the ending out of the list: {Path(image_id).stem}"
        raise DataError(f"{folder / image_id}.jpg: the image is absent though its split names it; {remedy}")

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
            derive = f"make it with SBD's masks: {DOWNLOAD}. Or " if folder.name == AUG_MASKS else ""
            raise DataError(
                f"{folder}: no such mask folder; expected index masks in it: {derive}choose another: {WITHOUT_SBD}"
            )
        raise DataError(
            f"{path}: the mask is absent though its split names it; add the file or remove the id from the list"
        )

    def mask_table(self, mask: Path) -> Sequence[int] | None:
        """None: masks hold the class list's ids."""
        return None

    def fingerprint(self) -> Fingerprint:
        """Over both lists, with sizes and times of their files."""
        images, masks = stat_folder(self._images), stat_folder(self.root / self._data.mask_folder)

        def image(image_id: str) -> Stat:
            names = (f"{image_id}{ending}" for ending in IMAGE_ENDINGS)
            return next((images[name] for name in names if name in images), ABSENT)

        return make_fingerprint(
            (split, image_id, image(image_id), masks.get(f"{image_id}.png", ABSENT))
            for split in ("train", "val")
            for image_id in self.ids(split)
        )

    def shared_masks(self, ids: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """None: a mask has its image's id as name."""
        return []

    def stray_masks(self) -> list[Path]:
        """Mask files that belong to no image file."""
        there = {path.stem for path in (self.root / "JPEGImages").iterdir()}
        return [mask for mask in sorted((self.root / self._data.mask_folder).glob("*.png")) if mask.stem not in there]

    def left_out(self) -> list[str]:
        """None: images have one ending."""
        return []


def voc_palette() -> list[int]:
    """VOC's colours of the ids 0 to 255: as many RGB triples in one list, each number 0..255.

    Source: VOC's development kit, which spreads the bits of an id over the channels.
    """
    return [
        sum((value >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for value in range(256)
        for channel in range(3)
    ]


def _locate(root: Path) -> Path:
    """The folder that holds JPEGImages."""
    for candidate in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        if (candidate / "JPEGImages").is_dir():
            return candidate
    what = "holds no VOCdevkit/VOC2012/JPEGImages" if root.is_dir() else "no such folder"
    raise DataError(
        f"{root}: {what}; download it: {DOWNLOAD}; or set the folder that holds VOCdevkit/: --set data.root=PATH"
    )


LAYOUT = Layout(VocSource, masks=("mask_folder",), lists=("train_split", "val_split"))
