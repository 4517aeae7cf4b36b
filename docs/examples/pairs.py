"""Images and masks side by side: `train/a.jpg` and `train/a.png`, `val/b.jpg` and `val/b.png`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from split_matching.errors import DataError
from split_matching.stages.data.raw_files import Fingerprint, make_fingerprint, stat_file
from split_matching.stages.data.source import Layout


class PairsSource:
    """Files of this layout; see `Source`. The id of `train/a.jpg` is `train.a`.

    Args:
        data: the `data` section; nothing of it is needed here.
        root: the folder that holds `train` and `val`.
    """

    def __init__(self, data: Any, root: Path) -> None:
        self._root = root

    def ids(self, split: str) -> list[str]:
        """Ids of all images of a split, sorted."""
        found = sorted(f"{split}.{path.stem}" for path in (self._root / split).glob("*.jpg"))
        if not found:
            raise DataError(f"{self._root / split}: no .jpg in it; set the folder above it: --set data.root=PATH")
        return found

    def image_path(self, image_id: str) -> Path:
        """The image of an id."""
        return self._find(image_id, ".jpg")

    def mask_path(self, image_id: str) -> Path:
        """The mask of an id."""
        return self._find(image_id, ".png")

    def mask_table(self, mask: Path) -> Sequence[int] | None:
        """None: masks hold the class list's ids."""
        return None

    def fingerprint(self) -> Fingerprint:
        """Over both splits, with sizes and times of their files."""
        return make_fingerprint(
            (split, image_id, stat_file(self.image_path, image_id), stat_file(self.mask_path, image_id))
            for split in ("train", "val")
            for image_id in self.ids(split)
        )

    def shared_masks(self, ids: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """None: a mask lies beside its image."""
        return []

    def stray_masks(self) -> list[Path]:
        """Masks without an image."""
        return [mask for mask in sorted(self._root.glob("*/*.png")) if not mask.with_suffix(".jpg").is_file()]

    def left_out(self) -> list[str]:
        """None: all images are JPEG files."""
        return []

    def _find(self, image_id: str, ending: str) -> Path:
        split, _, name = image_id.partition(".")
        path = self._root / split / f"{name}{ending}"
        if not path.is_file():
            raise DataError(f"{path}: no such file; add it")
        return path


LAYOUT = Layout(PairsSource)
