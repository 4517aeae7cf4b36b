"""Multi-scale clustering of a batch of images in torch: for GPUs, `pseudo_masks.engine=torch`.

One image is too small a problem for a GPU, and faiss takes one problem a call. Here all images of one grid share every
product. k-means does what faiss 1.15 does, its treatment of empty clusters included, so that both engines give the same
assignments from the same seeds; sums are taken in another order, so ties and last bits may differ. Every product has a
fixed order on a device: no atomic additions. Source: choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering.steps import (
    Linkage,
    closeness,
    label_merges,
    link_centroids,
    prepare,
    window_matrix,
)
from split_matching.stages.ground.region_map import number_by_area

BATCHED = True
SPLIT_SEED = 1234  # as in faiss, the same in each iteration
SPLIT = np.float32(1 / 1024)  # how far the halves of a split cluster are moved apart, as in faiss


@torch.inference_mode()
def cluster(
    images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
) -> list[NDArray[np.uint8]]:
    """Partition images of one grid together; see `ClusteringModule`."""
    points, linked = link_each(images, free, config, device)
    merged = [rows.means(rows.groups(config.merge)) for rows in linked]
    return label_cells(points, merged, free[0].shape, config.scale)


@torch.inference_mode()
def sweep(
    dense: NDArray[Any], free: NDArray[np.bool_], config: PseudoMasksConfig, merges: Sequence[float]
) -> list[NDArray[np.uint8]]:
    """Partition an image at several settings of `merge`; see `cluster_at`."""
    points, [linked] = link_each([dense], [free], config, "cpu")
    return label_merges(linked, merges, lambda rows: label_cells(points, [rows], free.shape, config.scale)[0])


def link_each(
    images: Sequence[NDArray[Any]], free: Sequence[NDArray[np.bool_]], config: PseudoMasksConfig, device: str
) -> tuple[Tensor, list[Linkage]]:
    """Return the cells that are compared (B, h * w, D), and the linkage of each image's clusters."""
    dense, inside = (torch.from_numpy(np.stack(arrays)).to(device) for arrays in (images, free))
    grid = (inside.shape[1], inside.shape[2])
    points = prepare(dense, inside, config.smooth).flatten(1, 2)  # (B, n, D)
    inside = inside.flatten(1)  # (B, n)
    seeds, used = seed_windows(points, inside, grid, config.windows)
    centroids = kmeans(points, inside, seeds, used, config.iterations)
    sizes = _owners(points, inside, centroids, used).sum(-1).to(torch.int64)  # (B, k); 0 for those that are not used
    rows = zip(centroids.cpu().numpy(), sizes.cpu().numpy(), strict=True)
    return points, [link_centroids(centres, counts, config) for centres, counts in rows]


def seed_windows(
    points: Tensor, free: Tensor, grid: tuple[int, int], windows: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Initial centroids of each image, see `steps.window_seeds`.

    Args:
        points: cells, row by row. Shape: (B, n, D).
        free: which of them are to be clustered. Shape: (B, n), bool.
        grid: h and w, n = h * w.
        windows: sizes in cells.

    Returns:
        Seeds (B, k, D), and which of them an image uses (B, k), bool: an image with windows that have no free cell, or
        with fewer free cells than windows, has fewer than others.
    """
    matrix = _window_matrix_on(points.device, grid, windows)  # (k, n)
    counts = free.float() @ matrix.T  # (B, k)
    seeds = (matrix @ (points * free[..., None])) / counts.clamp(min=1)[..., None]
    used = counts > 0
    for image in (free.sum(1) < used.sum(1)).nonzero().flatten().tolist():
        cells = points[image, free[image]]
        seeds[image, : len(cells)] = cells
        used[image] = torch.arange(len(matrix), device=points.device) < len(cells)
    return seeds, used


@lru_cache(maxsize=8)  # a matrix has a megabyte for 32 x 32 cells, 20 for 64 x 64
def _window_matrix_on(device: torch.device, grid: tuple[int, int], windows: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(window_matrix(*grid, windows).toarray()).to(device)


def kmeans(points: Tensor, free: Tensor, seeds: Tensor, used: Tensor, iterations: int) -> Tensor:
    """Run k-means on several images at once, as `faiss.Kmeans` does on one.

    Args:
        points: Shape: (B, n, D), float32.
        free: which of them are clustered. Shape: (B, n), bool.
        seeds: initial centroids. Shape: (B, k, D), float32.
        used: which of them an image uses. Shape: (B, k), bool.
        iterations: how many.

    Returns:
        Centroids; those that are not used mean nothing. Shape: (B, k, D).
    """
    centroids = seeds
    for _ in range(iterations):
        owners = _owners(points, free, centroids, used)  # (B, k, n)
        counts = owners.sum(-1)  # (B, k)
        means = (owners @ points) / counts.clamp(min=1)[..., None]
        for image in ((counts == 0) & used).any(-1).nonzero().flatten().tolist():
            own = used[image]
            split = fill_empty(
                means[image, own].cpu().numpy(), counts[image, own].cpu().numpy(), int(free[image].sum())
            )
            means[image, own] = torch.from_numpy(split).to(means)
        centroids = means
    return centroids


def _owners(points: Tensor, free: Tensor, centroids: Tensor, used: Tensor) -> Tensor:
    """1 where a used centroid is the closest one to a free point, 0 elsewhere. (B, k, n), float32."""
    close = closeness(points, centroids).masked_fill(~used[:, None], -torch.inf)  # (B, n, k)
    owners = points.new_zeros(len(points), centroids.shape[1], points.shape[1])
    return owners.scatter_(1, close.argmax(-1)[:, None], free[:, None].to(points.dtype))


def label_cells(
    points: Tensor, centroids: list[NDArray[np.float32]], grid: tuple[int, int], scale: int
) -> list[NDArray[np.uint8]]:
    """Label every upsampled cell by its closest centroid.

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
    close = closeness(points, torch.from_numpy(padded).to(points.device)).mT.unflatten(2, grid)  # (B, m, h, w)
    fine = F.interpolate(close, (grid[0] * scale, grid[1] * scale), mode="bilinear")
    for index, rows in enumerate(centroids):
        fine[index, len(rows) :] = -torch.inf  # images with fewer clusters than others
    labels = (fine.argmax(1) + 1).to(torch.int32).cpu().numpy()
    return [number_by_area(image) for image in labels]


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
