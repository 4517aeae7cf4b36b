"""Pseudo masks as files that other programs read: COCO's JSON, or PNGs in the layout of a `folder` data set.

Masks have the size of their images: every pixel has the region of the cell that its centre lies in, as everywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.cache.artifact import Artifact
from split_matching.cache.files import atomic_write
from split_matching.errors import DataError
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.data.source import Source
from split_matching.stages.ground.context import Progress, no_progress
from split_matching.stages.ground.picture_files import write_picture
from split_matching.stages.ground.region_map import masks_of

CATEGORY = {"id": 1, "name": "region", "supercategory": "pseudo mask"}
"""The one category of all regions: what they show is not known."""


@dataclass(frozen=True)
class MaskExporter:
    """Writes the pseudo masks of the training images.

    Args:
        masks: the artifact of ClusterPseudoMasks.
        dataset: the artifact of PrepareDataset.
        source: where the images are.
        progress: called with (done, total).
    """

    masks: Artifact
    dataset: Artifact
    source: Source
    progress: Progress = no_progress

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Ids, and region maps of the images' sizes: (H, W) uint8, 0 is none, 1..R the regions by falling area."""
        sizes = {str(image["id"]): image for image in self.dataset.json("images.json")["train"]}
        shards = self.masks.shards("train")
        for done, image_id in enumerate(shards.ids, 1):
            shape = (sizes[image_id]["height"], sizes[image_id]["width"])
            yield image_id, resize_labels(shards.read(image_id, "labels"), shape)
            self.progress(done, len(shards.ids))

    def write_coco(self, path: Path, root: Path) -> tuple[int, int]:
        """Write one JSON file in COCO's format of instances, with masks as compressed run lengths.

        Args:
            path: the file; folders above it are made.
            root: folder of the data set; `file_name` of an image is relative to it.

        Returns:
            How many images and regions were written.
        """
        images: list[dict[str, Any]] = []
        regions: list[dict[str, Any]] = []
        for number, (image_id, labels) in enumerate(self, 1):
            name = os.path.relpath(self.source.image_path(image_id), root)
            images.append({"id": number, "file_name": name, "height": labels.shape[0], "width": labels.shape[1]})
            for mask in masks_of(labels):
                regions.append({"id": len(regions) + 1, "image_id": number, "category_id": 1, **describe_mask(mask)})
        about = {"description": f"pseudo masks of {self.masks.manifest['dataset']}", "version": self.masks.key}
        value = {"info": about, "images": images, "annotations": regions, "categories": [CATEGORY]}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")
        return len(images), len(regions)

    def write_pngs(self, folder: Path, colours: NDArray[np.uint8]) -> tuple[int, int]:
        """Write a `folder` data set: masks/ID.png, links to the images in images/, train.txt and classes.txt.

        Args:
            folder: new, or empty.
            colours: of the palette; the value of a pixel is the number of its region. Shape: (n, 3), uint8.

        Returns:
            How many images and regions were written.

        Raises:
            DataError: the folder holds something.
        """
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"{folder}: holds files already; expected a new or an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=folder.parent, ignore_cleanup_errors=True) as temporary:
            new = Path(temporary, "new")  # a folder of the usual mode, which that of a temporary one is not
            counts = self._fill(new, colours)
            new.rename(folder)
        return len(counts), sum(counts)

    def _fill(self, folder: Path, colours: NDArray[np.uint8]) -> list[int]:
        """Write the files of `write_pngs`, and return the number of regions of each image."""
        for name in ("masks", "images"):
            (folder / name).mkdir(parents=True)
        counts: dict[str, int] = {}
        for image_id, labels in self:
            counts[image_id] = int(labels.max(initial=0))
            picture = Image.fromarray(labels)
            picture.putpalette(bytes(3) + colours.tobytes())
            write_picture(picture, folder / f"masks/{image_id}.png", "PNG")
            original = self.source.image_path(image_id).resolve()
            (folder / f"images/{image_id}{original.suffix}").symlink_to(original)
        # a list of classes has at least two
        names = "".join(f"{number}: region {number}\n" for number in range(1, max(2, *counts.values()) + 1))
        (folder / "classes.txt").write_text(names, encoding="utf-8")
        (folder / "train.txt").write_text("".join(f"{image_id}\n" for image_id in counts), encoding="utf-8")
        return list(counts.values())


def describe_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the fields of COCO's annotations that say where a mask is. (H, W) bool."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [0, 0, 0, 0]
    if len(rows):
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    size = [mask.shape[0], mask.shape[1]]
    return {
        "segmentation": {"size": size, "counts": encode_runs(mask)},
        "area": int(mask.sum()),
        "bbox": box,  # left, top, width, height in pixels
        "iscrowd": 0,
    }


def encode_runs(mask: NDArray[np.bool_]) -> str:
    """Encode a mask as COCO's compressed run lengths.

    Runs go down the columns, and the first is of zeros. From the fourth on, a number is the difference to the one two
    before it. Each is written in groups of five bits, the lowest first; 32 says that more follow, and 48 is added.

    Args:
        mask: Shape: (H, W).

    Source: `rleEncode` and `rleToString` in maskApi.c of pycocotools: what they do, not their text.
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    numbers = np.diff(ends, prepend=0, append=mask.size)
    numbers[3:] -= numbers[1:-2].copy()
    signs, ends_here = np.zeros((len(numbers), 7), np.uint8), np.zeros((len(numbers), 7), bool)
    for place in range(7):  # 35 bits: more than an image has pixels
        group, numbers = numbers & 31, numbers >> 5
        # the last group's highest bit is the sign
        ends_here[:, place] = numbers == np.where(group & 16, -1, 0)
        signs[:, place] = group + np.where(ends_here[:, place], 48, 80)
    used = np.arange(7) <= ends_here.argmax(1)[:, None]
    return signs[used].tobytes().decode("ascii")
