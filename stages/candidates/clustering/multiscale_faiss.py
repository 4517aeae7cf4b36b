"""Multi-scale clustering by faiss: seeds are the mean features of sliding windows of several sizes.

Source: multi-scale seeds and merging after CLIP-ZSS (arXiv 2310.02296).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.faiss_kmeans import partition, smooth
from split_matching.stages.candidates.clustering.steps import to_unit_length, window_matrix

BATCHED = False


def cluster(images: Sequence[NDArray[Any]], config: PseudoMasksConfig, device: str) -> list[NDArray[np.uint8]]:
    """Partition each image; see `ClusteringModule`."""
    return [_cluster_image(dense, config) for dense in images]


def _cluster_image(dense: NDArray[Any], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    cells = smooth(dense, config.smooth)
    return partition(cells, window_seeds(cells, config.windows), config)


def window_seeds(cells: NDArray[np.float32], windows: tuple[int, ...]) -> NDArray[np.float32]:
    """Mean feature of every sliding window of every size, with a stride of half the size.

    Args:
        cells: Shape: (h, w, D), unit length.
        windows: sizes in cells; one larger than the grid is cut to it.

    Returns:
        Shape: (k, D), unit length, without duplicates from windows cut to the same place.

    Source: CLIP-ZSS, as recalled.
    """
    height, width, dim = cells.shape
    return np.asarray(to_unit_length(window_matrix(height, width, windows) @ cells.reshape(-1, dim)))
