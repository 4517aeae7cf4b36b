"""Multi-scale clustering by faiss: seeds are the mean features of sliding windows of several sizes.

Source: multi-scale seeds and merging after CLIP-ZSS (arXiv 2310.02296).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.faiss_kmeans import partition
from split_matching.stages.candidates.clustering.steps import window_seeds

BATCHED = False


def cluster(
    images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
) -> list[NDArray[np.uint8]]:
    """Partition each image; see `ClusteringModule`."""
    return [sweep(dense, cells, config, [config.merge])[0] for dense, cells in zip(images, free, strict=True)]


def sweep(
    dense: NDArray[Any], free: NDArray[np.bool_], config: PseudoMasksConfig, merges: Sequence[float]
) -> list[NDArray[np.uint8]]:
    """Partition an image at several settings of `merge`; see `cluster_at`."""

    def seed(points: NDArray[np.float32], inside: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float32]:
        return window_seeds(points, inside, grid, config.windows)

    return partition(dense, free, config, seed, merges)
