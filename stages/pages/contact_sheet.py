"""A contact sheet of a data set: images beside their masks, with a legend of the classes that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from split_matching.cache.files import atomic_write
from split_matching.configs.class_list import ClassList
from split_matching.configs.data_settings import DataConfig
from split_matching.errors import DataError
from split_matching.stages.data.audit import Audit
from split_matching.stages.data.image_audit import ImageAudit
from split_matching.stages.data.images import class_id, decode_values, read_bytes, read_image
from split_matching.stages.data.listing import SPLITS
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.data.source import Source, open_source
from split_matching.stages.ground.picture_files import write_picture
from split_matching.stages.pages.colours import class_colours
from split_matching.stages.pages.legend import INK, PAPER, SOFT_INK, draw_swatch, load_font
from split_matching.stages.pages.overlays import NO_LABEL, overlay, scale_to_side

PAIRS = 12
COLUMNS = 3
CELL = 230
"""Longer side of a picture, pixels (choice)."""

UNKNOWN_COLOUR = (0, 0, 0)  # no class is black
_MARGIN, _GAP, _BETWEEN, _CAPTION, _LINE, _TITLE = 16, 16, 4, 22, 22, 50
_PAIR = 2 * CELL + _BETWEEN
_WIDTH = 2 * _MARGIN + COLUMNS * _PAIR + (COLUMNS - 1) * _GAP


def choose_images(images: Sequence[ImageAudit], count: int = PAIRS) -> list[ImageAudit]:
    """Choose images that show as many classes as possible: each adds the most that is not shown yet (choice).

    Among equals the one farthest from all chosen ones wins, as neighbours may be frames of one video.

    Args:
        images: candidates, in the order of their ids; those without a usable mask are left out.
        count: most images.

    Returns:
        Training images first, then validation images, about half each where there are enough.
    """
    chosen: list[ImageAudit] = []
    for split in reversed(SPLITS):
        usable = [image for image in images if image.split == split and image.usable]
        shown: set[object] = set()
        distance = np.full(len(usable), len(usable))
        for _ in range(min(len(usable), count - len(chosen) if split == SPLITS[0] else count // 2)):
            # the first of equals; no chosen one again, as that has distance 0
            gains = [(bool(far), len(_ids_in(image) - shown), far) for image, far in zip(usable, distance, strict=True)]
            best = gains.index(max(gains))
            shown |= _ids_in(usable[best])
            chosen.append(usable[best])
            distance = np.minimum(distance, np.abs(np.arange(len(usable)) - best))
    return sorted(chosen, key=lambda image: (SPLITS.index(image.split), image.image_id))


def _ids_in(image: ImageAudit) -> set[object]:
    """Return the classes of an image, and its ids that are no class."""
    return {*image.counts, *(("unknown", value) for value in image.unknown)}


def write_contact_sheet(audit: Audit, data: DataConfig, root: Path | None, path: Path) -> None:
    """Draw the sheet into a PNG file, atomically; its folder is made.

    Args:
        audit: what was found; decides which images are shown.
        data: the `data` section.
        root: folder of the raw files.
        path: the file.
    """
    source = open_source(data, root)
    pairs = [_read_pair(source, image, audit.classes) for image in choose_images(audit.images)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        write_picture(_draw(pairs, audit.classes), temporary, "PNG")


@dataclass(frozen=True)
class Pair:
    """One image and its mask.

    Args:
        caption: below them.
        image: (h, w, 3) uint8.
        labels: (h, w) int32: places in the class list, their number for unknown ids, NO_LABEL for ignored ones.
    """

    caption: str
    image: NDArray[np.uint8]
    labels: NDArray[np.int32]


def _read_pair(source: Source, audit: ImageAudit, classes: ClassList) -> Pair:
    caption = audit.image_id if audit.image_id.startswith(audit.split) else f"{audit.split}  {audit.image_id}"
    try:
        image = scale_to_side(read_image(source.image_path(audit.image_id)), CELL)
        path = source.mask_path(audit.image_id)
        table = source.mask_table(path)
        values = resize_labels(decode_values(read_bytes(path), path, table=table), (image.shape[0], image.shape[1]))
    except DataError:  # it went away since
        return Pair(caption, np.full((CELL, CELL, 3), 238, np.uint8), np.full((CELL, CELL), NO_LABEL, np.int32))
    labels = np.full(values.shape, len(classes.entries), np.int32)
    for value in np.unique(values):
        raw = class_id(int(value), table)
        if raw in classes.ignore:
            labels[values == value] = NO_LABEL
        elif raw in classes.ids:
            labels[values == value] = classes.ids.index(raw)
    return Pair(caption, image, labels)


def _draw(pairs: Sequence[Pair], classes: ClassList) -> Image.Image:
    """Draw rows of pairs, and the legend below them."""
    shown = sorted({int(label) for pair in pairs for label in np.unique(pair.labels)} - {NO_LABEL})
    rows = [pairs[start : start + COLUMNS] for start in range(0, len(pairs), COLUMNS)]
    heights = [max(pair.image.shape[0] for pair in row) + _CAPTION + _GAP for row in rows]
    widest = max((load_font(14).getlength(_name(label, classes)) for label in shown), default=0)
    across = max(1, int((_WIDTH - 2 * _MARGIN) // (widest + 50)))
    legend_top = _TITLE + sum(heights)
    canvas = Image.new("RGB", (_WIDTH, legend_top + _LINE * -(-len(shown) // across) + _MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    title = "Images and their masks. Hatched: unseen classes. Bare: ignored."
    pen.text((_MARGIN, 14), title, INK, load_font(18, bold=True))
    colours = np.vstack([class_colours(classes.names), UNKNOWN_COLOUR]).astype(np.uint8)
    hatched = np.array([*(entry.id in classes.unseen_ids for entry in classes.entries), False])
    top = _TITLE
    for row, row_height in zip(rows, heights, strict=True):
        for place, pair in enumerate(row):
            left = _MARGIN + place * (_PAIR + _GAP)
            painted = overlay(pair.image, pair.labels, colours, hatched=hatched, alpha=0.75)
            canvas.paste(Image.fromarray(pair.image), (left, top))
            canvas.paste(Image.fromarray(painted), (left + pair.image.shape[1] + _BETWEEN, top))
            pen.text((left, top + pair.image.shape[0] + 3), pair.caption, SOFT_INK, load_font(13))
        top += row_height
    for place, label in enumerate(shown):
        left = _MARGIN + place % across * ((_WIDTH - 2 * _MARGIN) // across)
        upper = legend_top + _LINE * (place // across)
        draw_swatch(pen, left, upper, colours[label], bool(hatched[label]))
        pen.text((left + 24, upper), _name(label, classes), INK, load_font(14))
    return canvas


def _name(label: int, classes: ClassList) -> str:
    if label == len(classes.entries):
        return "ids outside the class list"
    entry = classes.entries[label]
    return f"{entry.id} {entry.name}"
