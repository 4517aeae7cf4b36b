"""Turn the ids of masks into labels: places in a list of classes.

This is the wall between training and the unseen classes: background, void and unseen classes become one value before
anything else reads them (void outlines unseen objects too: telling it would leak).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from split_matching.stages.data.images import read_mask
from split_matching.stages.data.mask_values import Values
from split_matching.stages.data.source import Source

UNANNOTATED = 255
"""Training label of every pixel that is not of a seen class."""

IGNORE = 255
"""Validation label of every pixel that is of no class."""

Labels = NDArray[np.uint8]
"""Places in a list of classes, of which there are 255 at most."""


def seen_labels(mask: Values, seen_ids: Sequence[int]) -> Labels:
    """Training labels: all that training may know of a mask.

    Args:
        mask: (H, W) raw ids.
        seen_ids: raw ids of the seen classes, in order.

    Returns:
        (H, W) index into `seen_ids`, or `UNANNOTATED` for everything else alike: background, void, unseen.
    """
    return _index(mask, seen_ids)


def read_seen_labels(source: Source, image_id: str, seen_ids: Sequence[int]) -> tuple[Labels, NDArray[np.bool_]]:
    """Read one training mask and forget at once all that training may not know.

    Args:
        source: where the mask is.
        image_id: which image's; PrepareDataset has checked its mask.
        seen_ids: raw ids of the seen classes, in order.

    Returns:
        Labels as of `seen_labels`, (H, W); and where a seen class is annotated, (H, W) bool.

    Raises:
        DataError: the mask went missing or was damaged since.
    """
    labels = seen_labels(_read_checked_mask(source, image_id), seen_ids)
    return labels, labels != UNANNOTATED


def read_all_labels(source: Source, image_id: str, ids: Sequence[int]) -> Labels:
    """Read one validation mask; labels as of `all_labels`.

    Args:
        source: where the mask is.
        image_id: which image's; PrepareDataset has checked its mask.
        ids: raw ids of all classes, in order.

    Returns:
        (H, W) labels.

    Raises:
        DataError: the mask went missing or was damaged since.
    """
    return all_labels(_read_checked_mask(source, image_id), ids)


def _read_checked_mask(source: Source, image_id: str) -> Values:
    """A mask that PrepareDataset has checked, (H, W) ids of the class list."""
    path = source.mask_path(image_id)
    return read_mask(path, table=source.mask_table(path))


def all_labels(mask: Values, ids: Sequence[int]) -> Labels:
    """Validation labels.

    Args:
        mask: (H, W) raw ids.
        ids: raw ids of all classes, in order.

    Returns:
        (H, W) index into `ids`, or `IGNORE`.
    """
    return _index(mask, ids)


def _index(mask: Values, ids: Sequence[int]) -> Labels:
    """Replace each raw id by its place in `ids`, every other value by 255."""
    table = np.full(np.iinfo(mask.dtype).max + 1, IGNORE, dtype=np.uint8)
    for place, raw in enumerate(ids):
        if raw < len(table):
            table[raw] = place
    return table.take(mask)  # in half the time of table[mask]
