"""Resampling of images, and of label maps and score maps between pixel and token grids.

Everywhere with half-pixel centres, so that a cell of one grid covers the same part of the image in every other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

LabelMap = TypeVar("LabelMap", bound=NDArray[Any])


def nearest_cells(have: int, want: int) -> NDArray[np.int64]:
    """Return the cell of a grid that the centre of each cell of another grid lies in, along one axis.

    Args:
        have: number of cells of the grid that is looked up.
        want: number of cells of the other grid over the same length.

    Returns:
        Indices 0..have-1. Shape: (want,), int64.
    """
    return ((np.arange(want) + 0.5) * have / want).astype(np.int64)


def resize_labels(labels: LabelMap, shape: tuple[int, int]) -> LabelMap:
    """Nearest resampling of a label map; no value appears that was not there.

    Args:
        labels: values of any type. Shape: (H, W).
        shape: height and width wanted.

    Returns:
        Shape: (height, width), the same type.
    """
    rows, cols = (nearest_cells(have, want) for have, want in zip(labels.shape, shape, strict=True))
    return labels[rows[:, None], cols]  # type: ignore[return-value]


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bicubic resampling of an RGB image, as CLIP does. (H, W, 3) -> (height, width, 3), uint8."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_grid(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear resampling of a score map. (h, w, C) -> (height, width, C), float32."""
    import torch.nn.functional as F

    tensor = _tensor(values).permute(2, 0, 1)[None]
    resized = F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)
    return np.asarray(resized[0].permute(1, 2, 0).numpy())


def resize_share(mask: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Share of every target cell that a mask covers (area average). (..., H, W) -> (..., height, width), float32."""
    import torch.nn.functional as F

    resized = F.adaptive_avg_pool2d(_tensor(mask).reshape(1, -1, *mask.shape[-2:]), (height, width))
    return np.asarray(resized.reshape(*mask.shape[:-2], height, width).numpy())


def _tensor(values: NDArray[np.float32]) -> Tensor:
    import torch  # here, because pages that only need `resize_labels` start quicker without it

    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
