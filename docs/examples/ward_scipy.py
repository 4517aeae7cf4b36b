"""Ward's hierarchical clustering by SciPy: `pseudo_masks.k` regions an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.steps import prepare
from split_matching.stages.ground.region_map import number_by_area

BATCHED = False


def cluster(
    images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
) -> list[NDArray[np.uint8]]:
    """Partition each image; see `ClusteringModule`."""
    return [_partition(dense, cells, config) for dense, cells in zip(images, free, strict=True)]


def _partition(dense: NDArray[Any], free: NDArray[np.bool_], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    cells = prepare(torch.from_numpy(dense)[None], torch.from_numpy(free)[None], config.smooth)[0].numpy()
    labels = np.zeros(free.shape, np.int32)
    labels[free] = fcluster(linkage(cells[free], "ward"), config.k, "maxclust") if free.sum() > 1 else 1
    return number_by_area(labels.repeat(config.scale, 0).repeat(config.scale, 1))
