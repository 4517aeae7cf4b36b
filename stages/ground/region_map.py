"""A region map numbers the regions of an image: each cell has the number 1..R of its region, or 0 for none.

Pseudo masks are stored like this. Regions of one map do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_REGIONS = 254
"""Region maps are uint8."""


def number_by_area(labels: NDArray[Any], min_cells: float = 0) -> NDArray[np.uint8]:
    """Renumber regions 1.. from the largest down; drop those under `min_cells`, and the smallest beyond 254.

    Args:
        labels: any numbers, 0 for no region. Shape: (H', W'), integers.
        min_cells: least area of a region that is kept, in cells.

    Returns:
        The region map. Shape: (H', W').
    """
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")
    order = order[(areas[order] > 0) & (areas[order] >= min_cells)][:MAX_REGIONS]
    table = np.zeros(len(areas), np.uint8)
    table[order] = np.arange(1, len(order) + 1)
    return table[labels]


def masks_of(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masks of the regions 1..R of a region map. (H', W') uint8 -> (R, H', W') bool."""
    numbers = np.arange(1, int(labels.max(initial=0)) + 1, dtype=np.uint8)
    return np.asarray(labels[None] == numbers[:, None, None])
