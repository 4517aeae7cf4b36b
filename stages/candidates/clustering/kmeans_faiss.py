"""Plain k-means by faiss: `pseudo_masks.k` seeds drawn from the cells of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.faiss_kmeans import partition, smooth

BATCHED = False


def cluster(images: Sequence[NDArray[Any]], config: PseudoMasksConfig, device: str) -> list[NDArray[np.uint8]]:
    """Partition each image; see `ClusteringModule`. A grid of fewer than `k` cells gets a seed for each cell."""
    smoothed = [smooth(dense, config.smooth) for dense in images]
    return [partition(cells, min(config.k, cells.shape[0] * cells.shape[1]), config, config.seed) for cells in smoothed]
