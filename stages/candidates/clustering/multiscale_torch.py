"""Multi-scale clustering of a batch of images in torch: for GPUs, `pseudo_masks.engine=torch`.

One image is too small a problem for a GPU, and faiss takes one problem a call. Here all images of one grid share every
product. k-means does what faiss 1.15 does, its treatment of empty clusters included, so that both engines give the same
assignments from the same seeds; sums are taken in another order, so ties and last bits may differ. Every product has a
fixed order on a device: no atomic additions. Source: choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.steps import check_points, merge_centroids, window_matrix
from split_matching.stages.ground.region_map import number_by_area

BATCHED = True
SPLIT_SEED = 1234  # as in faiss, the same in each iteration
SPLIT = np.float32(1 / 1024)  # how far the halves of a split cluster are moved apart, as in faiss


@torch.inference_mode()
def cluster(images: Sequence[NDArray[Any]], config: PseudoMasksConfig, device: str) -> list[NDArray[np.uint8]]:
    """Partition images of one grid together; see `ClusteringModule`."""
    cells = torch.from_numpy(np.stack(images)).to(device).float()  # (B, h, w, D)
    grid = (cells.shape[1], cells.shape[2])
    points = smooth(cells, config.smooth).flatten(1, 2)
    windows = torch.from_numpy(window_matrix(*grid, config.windows).toarray()).to(device)  # (k, h * w)
    check_points(bool(torch.isfinite(points).all()), points.shape[1], len(windows))
    centroids = spherical_kmeans(points, F.normalize(windows @ points, dim=-1), config.iterations)
    merged = merge_each(points, centroids, config.merge)
    return label_cells(points, merged, grid, config.scale)


def smooth(dense: Tensor, weight: float) -> Tensor:
    """Mix every cell with the mean of its 3x3 neighbourhood; `faiss_kmeans.smooth` for a batch, with other last bits.

    Args:
        dense: Shape: (B, h, w, D), float32.
        weight: of the neighbourhood, 0..1; 0 mixes nothing.

    Returns:
        Unit length. Shape: (B, h, w, D).
    """
    cells = F.normalize(dense, dim=-1)
    if weight == 0:
        return cells
    padded = F.pad(cells.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")  # (B, D, h + 2, w + 2)
    mean = F.avg_pool2d(padded, 3, stride=1).permute(0, 2, 3, 1)
    return F.normalize((1 - weight) * cells + weight * mean, dim=-1)


def merge_each(points: Tensor, centroids: Tensor, threshold: float) -> list[NDArray[np.float32]]:
    """Merge the centroids of each image. (B, n, D) and (B, k, D) -> B arrays (m, D), see `merge_centroids`."""
    nearest = (points @ centroids.mT).argmax(-1)  # (B, n)
    sizes = F.one_hot(nearest, centroids.shape[1]).sum(1)
    pairs = zip(centroids.cpu().numpy(), sizes.cpu().numpy(), strict=True)
    return [merge_centroids(rows, counts, threshold) for rows, counts in pairs]


def label_cells(
    points: Tensor, centroids: list[NDArray[np.float32]], grid: tuple[int, int], scale: int
) -> list[NDArray[np.uint8]]:
    """Label every upsampled cell by its nearest centroid.

    Args:
        points: Shape: (B, h * w, D).
        centroids: of each image. Shapes: (m, D).
        grid: h and w.
        scale: upsampled cells a cell, along each axis.

    Returns:
        Regions of each image, numbered from 1 by area. Shapes: (scale * h, scale * w).
    """
    most = max(len(rows) for rows in centroids)
    padded = np.stack([np.pad(rows, ((0, most - len(rows)), (0, 0))) for rows in centroids])
    similarity = (points @ torch.from_numpy(padded).to(points.device).mT).mT.unflatten(2, grid)  # (B, m, h, w)
    fine = F.interpolate(similarity, (grid[0] * scale, grid[1] * scale), mode="bilinear")
    for index, rows in enumerate(centroids):
        fine[index, len(rows) :] = -torch.inf  # images with fewer clusters than others
    labels = (fine.argmax(1) + 1).to(torch.int32).cpu().numpy()
    return [number_by_area(image) for image in labels]


def spherical_kmeans(points: Tensor, seeds: Tensor, iterations: int) -> Tensor:
    """Run spherical k-means on several images at once, as `faiss.Kmeans` does on one.

    Args:
        points: unit length. Shape: (B, n, D), float32.
        seeds: initial centroids. Shape: (B, k, D), float32.
        iterations: how many.

    Returns:
        Centroids, unit length. Shape: (B, k, D).
    """
    centroids = F.normalize(seeds, dim=-1)
    for _ in range(iterations):
        nearest = (points @ centroids.mT).argmax(-1)  # (B, n)
        owners = F.one_hot(nearest, centroids.shape[1]).mT.to(points.dtype)  # (B, k, n)
        counts = owners.sum(-1)  # (B, k)
        means = (owners @ points) / counts.clamp(min=1)[..., None]
        for index in (counts == 0).any(-1).nonzero().flatten().tolist():
            split = fill_empty(means[index].cpu().numpy(), counts[index].cpu().numpy(), points.shape[1])
            means[index] = torch.from_numpy(split)
        centroids = F.normalize(means, dim=-1)
    return centroids


def fill_empty(centroids: NDArray[np.float32], counts: NDArray[np.float32], points: int) -> NDArray[np.float32]:
    """Give empty clusters half of another one, drawn by size, as `faiss::Clustering` does.

    Args:
        centroids: means of the points of each cluster. Shape: (k, D).
        counts: points in each. Shape: (k,).
        points: how many there are, n.

    Returns:
        Shape: (k, D).

    Source: faiss 1.15, `split_clusters` in Clustering.cpp: what it does, not its text.
    """
    centroids, counts = centroids.copy(), counts.astype(np.float32)
    count, draws = len(counts), _draw_uniform(SPLIT_SEED)
    sign = np.where(np.arange(centroids.shape[1]) % 2 == 0, SPLIT, -SPLIT)
    for empty in np.flatnonzero(counts == 0):
        with np.errstate(divide="ignore", invalid="ignore"):  # as many clusters as points: infinite, or none
            chances = ((counts - 1.0) / np.float32(points - count)).astype(np.float32).tolist()
        # one draw a cluster, round after round, until one is taken
        taken = next(cluster for cluster in cycle(range(count)) if next(draws) < chances[cluster])
        centroids[empty] = centroids[taken] * (1 + sign)
        centroids[taken] *= 1 - sign
        counts[empty] = counts[taken] / 2
        counts[taken] -= counts[empty]
    return centroids


def _draw_uniform(seed: int) -> Iterator[float]:
    """Yield float32 numbers from 0 to 1 as faiss draws them, without end."""
    rng = np.random.RandomState(seed)  # the generator of C++'s std::mt19937
    while True:
        draws = rng.randint(0, 2**32, 256, np.uint32).astype(np.float32) / np.float32(2**32 - 1)
        yield from draws.tolist()
