"""Resampling of label maps and score maps between pixel and token grids.

All of it goes through torch's `interpolate`, half-pixel centres, so that a cell of one grid covers the same part of the
image in every other.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def resize_grid(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear resampling of a score map. (h, w, C) -> (height, width, C), float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32)).permute(2, 0, 1)[None]
    resized = F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)
    return np.asarray(resized[0].permute(1, 2, 0).numpy())


def resize_share(mask: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Share of every target cell that a mask covers (area average). (..., H, W) -> (..., height, width), float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(mask, np.float32)).reshape(1, -1, *mask.shape[-2:])
    resized = F.adaptive_avg_pool2d(tensor, (height, width))
    return np.asarray(resized.reshape(*mask.shape[:-2], height, width).numpy())
