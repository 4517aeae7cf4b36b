"""Where images and masks come from: one `Source` a folder layout, all with the same four questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from configs.errors import DataError
from stages.datasets.voc import DataSettings, VocSource

__all__ = ["DataSettings", "Source", "open_source"]


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

    def fingerprint(self, splits: Sequence[str] = ("train", "val")) -> str:
        """Hex digest that changes when a list changes, or a listed file's name or size."""
        ...


def open_source(data: DataSettings, root: Path | None) -> Source:
    """Open the raw files of a data set.

    Args:
        data: the `data` section or a slice of it; a field is read only when a question needs it, so a stage that asks
            for images alone declares `data.layout` alone.
        root: folder of the raw files; for `shapes` the output folder of the renderer.

    Returns:
        The source.

    Raises:
        DataError: no root, or a root without the layout.
    """
    if root is None:
        raise DataError("data.root is not set; expected the folder that holds VOCdevkit/: --set data.root=PATH")
    # Rendered scenes are written as VOC writes photographs, so that both take the same path from here on.
    return VocSource(data, root)
