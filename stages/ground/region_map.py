"""A region map numbers the regions of an image: each cell has the number 1..R of its region, or 0 for none.

Pseudo masks are stored like this. Regions of one map do not overlap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def masks_of(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masks of the regions 1..R of a region map. (H', W') uint8 -> (R, H', W') bool."""
    numbers = np.arange(1, int(labels.max(initial=0)) + 1, dtype=np.uint8)
    return np.asarray(labels[None] == numbers[:, None, None])
