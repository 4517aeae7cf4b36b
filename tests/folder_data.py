"""A data set of one's own on disk, for tests: images and index masks in two folders, and a list of names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("wall", "door", "cat", "dog", "kite")
TRAIN = {"a": (0, 1, 255), "b": (2, 3), "c": (1, 2, 4)}
VAL = {"a": (3, 4, 0), "d": (1, 2)}  # `a` is another image than that of training


def stripes(ids: tuple[int, ...], shape: tuple[int, int] = (24, 32)) -> np.ndarray[Any, Any]:
    """A mask of vertical stripes, one an id."""
    places = np.minimum(np.arange(shape[1]) * len(ids) // shape[1], len(ids) - 1)
    return np.tile(np.asarray(ids)[places], (shape[0], 1)).astype(np.uint8)


def write(
    root: Path,
    splits: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
    *,
    palette: bool = False,
    names: tuple[str, ...] = NAMES,
    image_end: str = ".jpg",
    mask_end: str = ".png",
) -> Path:
    """Write images/SPLIT/ID.jpg, masks/SPLIT/ID.png and classes.txt; returns the root."""
    for split, masks in ({"train": TRAIN, "val": VAL} if splits is None else splits).items():
        for image_id, ids in masks.items():
            image, mask = (
                root / kind / split / f"{image_id}{end}" for kind, end in (("images", image_end), ("masks", mask_end))
            )
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([*f"{split}{image_id}".encode()])
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(image)
            picture = Image.fromarray(stripes(ids))
            if palette:
                picture.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
            picture.save(mask)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def settings(root: Path, *more: str) -> list[str]:
    """Overrides of `--dataset folder` that fit."""
    return [f"data.root={root}", "data.unseen=[dog, kite]", *more]
