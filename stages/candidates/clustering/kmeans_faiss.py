"""Plain k-means by faiss: `pseudo_masks.k` seeds drawn from the cells of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.faiss_kmeans import partition

BATCHED = False


def cluster(
    images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
) -> list[NDArray[np.uint8]]:
    """Partition each image; see `ClusteringModule`. One of fewer free cells than `k` gets a seed for each cell."""
    return [sweep(dense, cells, config, [config.merge])[0] for dense, cells in zip(images, free, strict=True)]


def sweep(
    dense: NDArray[Any], free: NDArray[np.bool_], config: PseudoMasksConfig, merges: Sequence[float]
) -> list[NDArray[np.uint8]]:
    """Partition an image at several settings of `merge`; see `cluster_at`."""

    def draw(points: NDArray[np.float32], inside: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float32]:
        cells = np.flatnonzero(inside)
        chosen = np.random.default_rng(config.seed).choice(cells, min(config.k, len(cells)), replace=False)
        return np.ascontiguousarray(points[chosen])

    return partition(dense, free, config, draw, merges)
