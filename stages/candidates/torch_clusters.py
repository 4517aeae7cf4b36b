"""The clustering of `clusters` for a batch of images at once, in torch: for GPUs, `pseudo_masks.engine=torch`.

One image is too small a problem for a GPU, and faiss takes one problem a call. Here all images of one grid share every
product. k-means does what faiss 1.15 does, its treatment of empty clusters included, so that both give the same
assignments from the same seeds; sums are taken in another order, so ties and last bits may differ. Every product has a
fixed order on a device: no atomic additions. Source: choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.schema import PseudoMasksConfig
from split_matching.stages.candidates.clusters import check_points, merge_centroids, number_by_area, window_matrix

SPLIT_SEED = 1234  # as in faiss, anew in each iteration
SPLIT = np.float32(1 / 1024)  # how far the halves of a split cluster are moved apart, as in faiss


@torch.inference_mode()
def partitions(
    dense: Sequence[NDArray[np.float16]] | Sequence[NDArray[np.float32]], config: PseudoMasksConfig, device: str
) -> list[NDArray[np.uint8]]:
    """Partition images of one grid, as `stages.candidates.clusters.partition` does one.

    Args:
        dense: features to cluster, of each image. Shapes: (h, w, D), all alike.
        config: see PseudoMasksConfig; `method` is "multiscale".
        device: where to compute.

    Returns:
        Region numbers from 1 in order of area, of each image. Shapes: (scale * h, scale * w), uint8.

    Raises:
        DataError: NaN among the features, or fewer tokens than clusters.
    """
    cells = torch.from_numpy(np.stack(dense)).to(device).float()  # (B, h, w, D)
    size = (cells.shape[1], cells.shape[2])
    cells = smoothed(F.normalize(cells, dim=-1), config.smooth)
    points = cells.flatten(1, 2)
    members = torch.from_numpy(window_matrix(*size, config.windows).toarray()).to(device)  # (k, h * w)
    check_points(bool(torch.isfinite(points).all()), points.shape[1], len(members))
    centroids = spherical_kmeans(points, F.normalize(members @ points, dim=-1), config.iterations)
    nearest = (points @ centroids.mT).argmax(-1)  # (B, h * w)
    sizes = F.one_hot(nearest, centroids.shape[1]).sum(1)
    pairs = zip(centroids.cpu().numpy(), sizes.cpu().numpy(), strict=True)
    merged = [merge_centroids(rows, counts, config.merge) for rows, counts in pairs]
    most = max(len(rows) for rows in merged)
    padded = torch.from_numpy(np.stack([np.pad(rows, ((0, most - len(rows)), (0, 0))) for rows in merged])).to(device)
    similarity = (points @ padded.mT).mT.unflatten(2, size)  # (B, m, h, w)
    fine = F.interpolate(similarity, (size[0] * config.scale, size[1] * config.scale), mode="bilinear")
    for index, rows in enumerate(merged):
        fine[index, len(rows) :] = -torch.inf  # images with fewer clusters than others
    labels = (fine.argmax(1) + 1).to(torch.int32).cpu().numpy()
    return [number_by_area(image, 0) for image in labels]


def smoothed(cells: Tensor, weight: float) -> Tensor:
    """As `stages.candidates.clusters.smoothed`, of a batch. (B, h, w, D) -> (B, h, w, D), unit length."""
    if weight == 0:
        return cells
    padded = F.pad(cells.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")  # (B, D, h + 2, w + 2)
    around = F.avg_pool2d(padded, 3, stride=1).permute(0, 2, 3, 1)
    return F.normalize((1 - weight) * cells + weight * around, dim=-1)


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
    count, rng = len(counts), np.random.RandomState(SPLIT_SEED)  # the generator of C++'s std::mt19937
    sign = np.where(np.arange(centroids.shape[1]) % 2 == 0, SPLIT, -SPLIT)
    draws = np.zeros(0, np.float32)
    for empty in np.flatnonzero(counts == 0):
        with np.errstate(divide="ignore", invalid="ignore"):  # as many clusters as points: infinite, or none
            chances = ((counts - 1.0) / np.float32(points - count)).astype(np.float32)
        while True:  # one draw a cluster, round and round, until one is taken
            if len(draws) < count:
                more = rng.randint(0, 2**32, 4 * count, np.uint32)
                draws = np.concatenate([draws, more.astype(np.float32) / np.float32(2**32 - 1)])
            hits = np.flatnonzero(draws[:count] < chances)
            draws = draws[int(hits[0]) + 1 if len(hits) else count :]
            if len(hits):
                break
        taken = int(hits[0])
        centroids[empty] = centroids[taken] * (1 + sign)
        centroids[taken] *= 1 - sign
        counts[empty] = counts[taken] / 2
        counts[taken] -= counts[empty]
    return centroids
