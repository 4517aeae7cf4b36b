"""Where images and masks come from: one `Source` for each layout of a data set's folders, all with the same questions.

A layout is one file, `stages/data/layouts/NAME.py`, with a class that answers them and a `LAYOUT`; and its name in
`data.layout` of configs/data_settings.py. It is found by that name: no module imports all layouts, so the code of a
stage holds the file of its own layout and of no other. Nothing is decoded here, and nothing downloaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from split_matching.errors import DataError
from split_matching.stages.data.raw_files import Fingerprint

__all__ = ["Layout", "Source", "layout_module", "load_layout", "open_source"]


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

    def mask_table(self, mask: Path) -> Sequence[int] | Mapping[int, int] | None:
        """The class list's id of each value of a mask file, -1 for values that may not occur; None: the same id.

        Of a mask whose colours count, the id of each colour, 0xRRGGBB.
        """
        ...

    def fingerprint(self) -> Fingerprint:
        """What is known of the listed files without opening them."""
        ...

    def shared_masks(self, ids: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """Pairs of images, of the ids of each split, that would have one mask file; found without opening files."""
        ...

    def stray_masks(self) -> list[Path]:
        """Mask files that belong to no image file."""
        ...

    def left_out(self) -> list[str]:
        """Files among the images that are no pictures by their names, where any picture is an image."""
        ...


@dataclass(frozen=True)
class Layout:
    """How one kind of data set lies on disk.

    A stage declares the fields that it needs: one that reads images only does not rerun when the masks move.

    Args:
        source: makes the source, from the `data` section or a slice of it, and the root.
        images: fields of `data`, beside `layout`, that lead from an id to its image.
        masks: the same for masks.
        lists: the same for the splits.
    """

    source: Callable[[Any, Path], Source]
    images: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


def layout_module(name: str) -> str:
    """Return the dotted name of the module of a layout, e.g. "split_matching.stages.data.layouts.voc"."""
    return f"split_matching.stages.data.layouts.{name}"


def load_layout(name: str) -> Layout:
    """Return a layout by its name in `data.layout`: the `LAYOUT` of its module."""
    layout: Layout = importlib.import_module(layout_module(name)).LAYOUT
    return layout


def open_source(data: Any, root: Path | None) -> Source:
    """Open the raw files of a data set.

    Args:
        data: the `data` section or a slice of it. A field is read only when a question needs it, so a stage that asks
            for images alone declares what finding images needs (see `Layout`).
        root: folder of the raw files; for `shapes` the output folder of the renderer.

    Returns:
        The source.

    Raises:
        DataError: no root, or a root without the layout.
    """
    if root is None:
        raise DataError("data.root is not set; expected the folder of the data set: --set data.root=PATH")
    return load_layout(data.layout).source(data, root)
