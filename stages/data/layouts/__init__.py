"""Where images and masks come from: one `Source` a folder layout, all with the same few questions.

A layout is one file here with a class that answers them, a line in `LAYOUTS`, and its name in `data.layout` of
configs/schema.py; README.md says the rest. Nothing is decoded here, and nothing downloaded: see `catalogue`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from split_matching.errors import DataError
from split_matching.stages.data.layouts.coco_stuff import CocoStuffSource
from split_matching.stages.data.layouts.folder import FolderSource
from split_matching.stages.data.layouts.voc import VocSource
from split_matching.stages.data.listing import Fingerprint

__all__ = ["LAYOUTS", "Layout", "Source", "open_source"]


class Source(Protocol):
    """Images, masks and splits of one data set; nothing is decoded here."""

    def ids(self, split: str) -> list[str]:
        """Image ids of "train" or "val", sorted, each once."""
        ...

    def image_path(self, image_id: str) -> Path:
        """The image file of an id."""
        ...

    def mask_path(self, image_id: str) -> Path:
        """The mask file of an id."""
        ...

    def mask_table(self, mask: Path) -> Sequence[int] | None:
        """The class list's id of each value of a mask file, -1 for values that may not occur; None: the same id."""
        ...

    def fingerprint(self) -> Fingerprint:
        """What can be told of the listed files without opening them."""
        ...

    def stray_masks(self) -> list[Path]:
        """Mask files that belong to no image file."""
        ...


@dataclass(frozen=True)
class Layout:
    """How one kind of data set lies on disk.

    Args:
        source: makes the source, from the `data` section or a slice of it, and the root.
        images: fields of `data` that the way from an id to its image depends on, beside `layout`.
        masks: the same for masks.
        lists: the same for the splits.
    """

    source: Callable[[Any, Path], Source]
    images: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


_VOC = Layout(VocSource, masks=("mask_folder",), lists=("train_split", "val_split"))
_PLACES = ("image_folder", "image_suffix")

LAYOUTS: Mapping[str, Layout] = {
    # Rendered scenes are written as VOC writes photographs, so that both take the same path from here on.
    "shapes": _VOC,
    "voc": _VOC,
    "coco_stuff": Layout(CocoStuffSource),
    "folder": Layout(
        FolderSource,
        images=_PLACES,
        masks=(*_PLACES, "mask_folder", "mask_suffix"),
        lists=(*_PLACES, "train_split", "val_split"),
    ),
}


def open_source(data: Any, root: Path | None) -> Source:
    """Open the raw files of a data set.

    Args:
        data: the `data` section or a slice of it; a field is read only when a question needs it, so a stage that asks
            for images alone declares what finding images needs (see `Layout`).
        root: folder of the raw files; for `shapes` the output folder of the renderer.

    Returns:
        The source.

    Raises:
        DataError: no root, or a root without the layout.
    """
    if root is None:
        raise DataError("data.root is not set; expected the folder of the data set: --set data.root=PATH")
    return LAYOUTS[data.layout].source(data, root)
