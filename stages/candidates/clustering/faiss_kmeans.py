"""k-means by faiss, one image at a time, and the steps around it.

Source: paper (cluster CLIP's dense features); linkage and upsampling are choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.steps import closeness, label_merges, link_centroids, prepare
from split_matching.stages.data.resize import resize_grid
from split_matching.stages.ground.region_map import number_by_area

Seed = Callable[[NDArray[np.float32], NDArray[np.bool_], tuple[int, int]], NDArray[np.float32]]
"""Makes initial centroids (k, D) from all cells (h * w, D), which of them are free (h * w,), and h and w."""


def kmeans(points: NDArray[np.float32], seeds: NDArray[np.float32], iterations: int) -> NDArray[np.float32]:
    """Run faiss's k-means.

    Args:
        points: Shape: (n, D).
        seeds: initial centroids, at most n. Shape: (k, D).
        iterations: how many.

    Returns:
        Centroids. Shape: (k, D).
    """
    clustering = faiss.Kmeans(
        points.shape[1],
        len(seeds),
        niter=iterations,
        min_points_per_centroid=1,  # the default of 39 warns for every image
        max_points_per_centroid=len(points),  # the default of 256 draws a subsample
    )
    clustering.train(points, init_centroids=seeds)
    return np.asarray(clustering.centroids)


def partition(
    dense: NDArray[Any],
    free: NDArray[np.bool_],
    config: PseudoMasksConfig,
    seed: Seed,
    merges: Sequence[float],
) -> list[NDArray[np.uint8]]:
    """Partition one image: k-means, merging, and the closest centroid of every upsampled cell.

    Args:
        dense: features. Shape: (h, w, D), any float type.
        free: which cells are to be clustered. Shape: (h, w).
        config: see PseudoMasksConfig.
        seed: makes the initial centroids.
        merges: settings of `merge`, in place of the config's.

    Returns:
        For each setting regions numbered from 1 by area. Shapes: (scale * h, scale * w).
    """
    height, width = free.shape
    cells = prepare(torch.from_numpy(dense)[None], torch.from_numpy(free)[None], config.smooth)
    points, inside = cells.flatten(0, 2).numpy(), free.ravel()
    chosen = points[inside]
    centroids = kmeans(chosen, seed(points, inside, (height, width)), config.iterations)
    sizes = np.bincount(closeness(chosen, centroids).argmax(1), minlength=len(centroids))

    def label(merged: NDArray[np.float32]) -> NDArray[np.uint8]:
        # closeness is upsampled, not labels: borders between cells then follow the features
        close = closeness(points, merged).reshape(height, width, -1)
        return number_by_area(resize_grid(close, height * config.scale, width * config.scale).argmax(-1) + 1)

    return label_merges(link_centroids(centroids, sizes, config), merges, label)
