"""Ward's hierarchical clustering by SciPy: `pseudo_masks.k` regions an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.steps import check_points, to_unit_length
from split_matching.stages.ground.region_map import number_by_area

BATCHED = False


def cluster(images: Sequence[NDArray[Any]], config: PseudoMasksConfig, device: str) -> list[NDArray[np.uint8]]:
    """Partition each image; see `ClusteringModule`."""
    return [_partition(dense.astype(np.float32), config) for dense in images]


def _partition(dense: NDArray[np.float32], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    height, width, dim = dense.shape
    points = to_unit_length(dense.reshape(-1, dim))
    check_points(bool(np.isfinite(points).all()), len(points), config.k)
    groups = fcluster(linkage(points, "ward"), config.k, "maxclust").reshape(height, width)
    return number_by_area(groups.repeat(config.scale, 0).repeat(config.scale, 1))
