"""One image of a data set and its mask, read without trust: what is in them, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from split_matching.configs.class_list import ClassList
from split_matching.errors import DataError
from split_matching.stages.data.images import (
    check_size,
    class_id,
    decode_values,
    decode_with_palette,
    measure,
    read_bytes,
)
from split_matching.stages.data.mask_values import ColouredError
from split_matching.stages.data.source import Source

COLOURED, UNDECODABLE = "masks are coloured", "images cannot be decoded"
"""Kinds of what is wrong with a mask that has colours, and with an image file that is none."""

KINDS = {
    "images are absent": "image is absent",
    UNDECODABLE: "image cannot be decoded",
    "masks are absent": "mask is absent",
    "masks cannot be used": "mask cannot be used",
    "masks have another size than their images": "mask has another size than its image",
    COLOURED: "mask is coloured",
}
"""What may be wrong with the files of an image; in the words for many, and for one."""

MOST_COLOURS = 256
"""Of one mask; more are a photograph, or edges that were smoothed."""


@dataclass(frozen=True)
class ImageAudit:
    """What was found in one image and its mask.

    Args:
        split: "train" or "val".
        image_id: which image.
        counts: pixels of each id of the class list, ignored ids too; empty where the mask cannot be used.
        unknown: pixels of each value that is not in the class list.
        sha256: of the image file; "" where there is none.
        rotated: the image has an EXIF orientation.
        colours: pixels of each colour, 0xRRGGBB, of a mask that holds colours and no ids; the most frequent ones.
        palette: the colour, 0xRRGGBB, of each palette index that a mask of ids has; none without a palette. Without
            ignored ids, and colours that the file's palette has more than once.
        error: kind and message of what is wrong with the files; None if nothing is.
    """

    split: str
    image_id: str
    counts: Mapping[int, int] = field(default_factory=dict)
    unknown: Mapping[int, int] = field(default_factory=dict)
    sha256: str = ""
    rotated: bool = False
    error: tuple[str, str] | None = None
    colours: Mapping[int, int] = field(default_factory=dict)
    palette: Mapping[int, int] = field(default_factory=dict)

    @property
    def undecodable(self) -> bool:
        """Whether the image file is none that can be decoded."""
        return self.error is not None and self.error[0] == UNDECODABLE

    @property
    def usable(self) -> bool:
        """Whether the mask could be read."""
        return bool(self.counts or self.unknown)


def audit_image(source: Source, split: str, image_id: str, classes: ClassList) -> ImageAudit:
    """Read one image and its mask; nothing that is wrong with them raises."""
    kind, sha256, rotated = "images are absent", "", False
    try:
        image_path = source.image_path(image_id)
        data = read_bytes(image_path)
        sha256 = hashlib.sha256(data).hexdigest()
        kind = UNDECODABLE
        shape, turned = measure(data, image_path)
        rotated = turned != 1
        kind = "masks are absent"
        mask_path = source.mask_path(image_id)
        content = read_bytes(mask_path)
        kind = "masks cannot be used"
        table = source.mask_table(mask_path)
        values, colours = decode_with_palette(content, mask_path, table)
        kind = "masks have another size than their images"
        check_size(values, shape, mask_path)
    except ColouredError as error:
        problem = (COLOURED, str(error))
        return ImageAudit(split, image_id, {}, {}, sha256, rotated, problem, _count_colours(content, mask_path))
    except DataError as error:
        return ImageAudit(split, image_id, {}, {}, sha256, rotated, (kind, str(error)))
    known = {*classes.ids, *classes.ignore}
    counts, unknown = Counter[int](), Counter[int]()
    there = _count_values(values)
    for value, number in there:
        raw = class_id(value, table)
        if raw in known:
            counts[raw] += number
        else:
            unknown[value] += number
    ids = [value for value, _ in there if class_id(value, table) not in classes.ignore]
    often = Counter(colours)  # of the whole palette: what programs fill it up with is often the colour of a class too
    palette = {value: colours[value] for value in ids if value < len(colours) and often[colours[value]] == 1}
    return ImageAudit(split, image_id, counts, unknown, sha256, rotated, palette=palette)


def _count_values(values: NDArray[Any]) -> list[tuple[int, int]]:
    """Each value of a mask with its number of pixels, by value."""
    if values.dtype == np.uint32:  # colours
        return list(zip(*(side.tolist() for side in np.unique(values, return_counts=True)), strict=True))
    if values.dtype == np.uint8:  # a fifth of the time of bincount, which makes long integers of them
        return [(value, number) for value, number in enumerate(Image.fromarray(values).histogram()) if number]
    counts = np.bincount(values.ravel())
    return [(int(value), int(counts[value])) for value in np.flatnonzero(counts)]


def _count_colours(content: bytes, path: Path) -> dict[int, int]:
    """Pixels of the most frequent colours of a mask; none where they are no plain colours."""
    try:
        colours = decode_values(content, path, table={})
    except DataError:
        return {}
    return dict(Counter(dict(_count_values(colours))).most_common(MOST_COLOURS))
