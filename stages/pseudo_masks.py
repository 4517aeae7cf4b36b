"""ClusterPseudoMasks: cluster the dense CLIP features of one image into pseudo masks of what is not annotated.

Source: paper (cluster CLIP's dense features into pseudo masks); multi-scale seeds and merging above lambda after
CLIP-ZSS (arXiv 2310.02296); linkage and upsampling are choices. Nothing about unseen classes enters: the only labels
read are the seen classes' annotated pixels, which are removed from every region.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from cache.h5 import Field, ShardWriter
from configs.errors import DataError
from configs.schema import PseudoMasksConfig
from stages.context import Shard, StageContext
from stages.datasets import open_source
from stages.datasets.images import read_seen_labels
from stages.in_order import in_order
from stages.resize import resize_grid, resize_share

KIND = "pseudo_masks"
MAX_REGIONS = 254  # region numbers are uint8, 0 is "no region"


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `labels` (H', W') uint8, 0 is no region, 1..R the regions, H' = scale * clustered rows."""
    return {"labels": Field("uint8", lead=2, compress=True)}


def clustered_field(features: Collection[str], config: PseudoMasksConfig) -> str:
    """Name of the features that are clustered: `stitched` where there is one, else `dense` or a token map."""
    if "stitched" in features:  # made of the same block: see stages.features
        return "stitched"
    return "dense" if config.block is None else f"tokens_{config.block}"


def window_seeds(dense: NDArray[np.float32], windows: tuple[int, ...]) -> NDArray[np.float32]:
    """Mean feature of every sliding window of every size, with a stride of half the size.

    Args:
        dense: Shape: (h, w, D), unit length.
        windows: sizes in tokens; one larger than the grid is cut to it.

    Returns:
        Shape: (k, D), unit length, without duplicates from windows cut to the same place.

    Source: CLIP-ZSS, as recalled.
    """
    height, width, dim = dense.shape
    return np.asarray(_unit(_window_matrix(height, width, windows) @ dense.reshape(-1, dim)))


@lru_cache(maxsize=64)  # photographs come in a few dozen grids
def _window_matrix(height: int, width: int, windows: tuple[int, ...]) -> csr_array:
    """Which cells lie in which window: sums over all windows are one sparse product. (k, h * w), float32."""
    cells = np.arange(height * width).reshape(height, width)
    boxes: dict[tuple[int, int, int, int], None] = {}
    for size in windows:
        for y in _starts(height, size):
            for x in _starts(width, size):
                boxes[y, x, min(y + size, height), min(x + size, width)] = None
    members = [cells[y0:y1, x0:x1].ravel() for y0, x0, y1, x1 in boxes]
    start = np.cumsum([0, *(len(window) for window in members)])
    columns = np.concatenate(members)
    return csr_array((np.ones(len(columns), np.float32), columns, start), shape=(len(members), cells.size))


def _starts(length: int, size: int) -> list[int]:
    """Window starts along one axis; the last window ends at the border."""
    last = max(0, length - size)
    starts = list(range(0, last + 1, max(1, size // 2)))
    return starts if starts[-1] == last else [*starts, last]


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def spherical_kmeans(
    points: NDArray[np.float32], seeds: NDArray[np.float32] | int, iterations: int, seed: int = 0
) -> NDArray[np.float32]:
    """Run faiss's spherical k-means.

    Args:
        points: unit length. Shape: (n, D).
        seeds: initial centroids, unit length, shape (k, D); or k, for seeds drawn from the points.
        iterations: how many.
        seed: of the drawing.

    Returns:
        Centroids, unit length. Shape: (k, D).

    Raises:
        DataError: NaN among the points, or fewer points than clusters.
    """
    count = seeds if isinstance(seeds, int) else len(seeds)
    if not np.isfinite(points).all():
        raise DataError(
            "dense features contain NaN: the CLIP weights or the cached features are damaged; re-extract them"
        )
    if len(points) < count:
        raise DataError(
            f"{len(points)} tokens cannot make {count} clusters: "
            "raise features.size, or lower pseudo_masks.k or the number of pseudo_masks.windows"
        )
    kmeans = faiss.Kmeans(
        points.shape[1],
        count,
        niter=iterations,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,  # the default of 39 warns for every image
        max_points_per_centroid=len(points),  # the default of 256 draws a subsample
    )
    kmeans.train(points, init_centroids=None if isinstance(seeds, int) else seeds)
    return _unit(np.asarray(kmeans.centroids))


def merge_centroids(centroids: NDArray[np.float32], sizes: NDArray[np.int64], threshold: float) -> NDArray[np.float32]:
    """Merge centroids that are alike: average linkage on cosine similarity, cut at `threshold`.

    Average and not single linkage, which chains an object to its ground through mixed border clusters.

    Args:
        centroids: unit length. Shape: (k, D).
        sizes: points in each cluster; empty clusters are left out. Shape: (k,).
        threshold: lambda.

    Returns:
        Size-weighted means of the merged, unit length, in order of their first member. Shape: (m, D).
    """
    kept, sizes = centroids[sizes > 0], sizes[sizes > 0]
    if len(kept) < 2:
        return kept
    distance = 1 - kept @ kept.T
    condensed = np.clip(distance[np.triu_indices(len(kept), 1)], 0, 2).astype(np.float64)
    groups = fcluster(linkage(condensed, "average"), 1 - threshold, "distance")
    first_seen = {group: rank for rank, group in enumerate(dict.fromkeys(groups))}
    member = np.zeros((len(first_seen), len(kept)))
    member[[first_seen[group] for group in groups], np.arange(len(kept))] = sizes
    return _unit(member @ kept).astype(np.float32)


def smoothed(dense: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Mix every token with the mean of its 3x3 neighbourhood, so that a pattern larger than a token stays one region.

    Args:
        dense: unit length. Shape: (h, w, D).
        weight: of the neighbourhood, 0..1; 0 changes nothing.

    Returns:
        Unit length. Shape: (h, w, D).

    Source: choice. On seen objects of 100 training scenes of `shapes`, each at its best merging threshold, it raised
    the mean best IoU from 0.57 to 0.62 and the share that CLIP names right from 0.82 to 0.89.
    """
    if weight == 0:
        return dense
    padded = np.pad(dense, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = padded[:-2] + padded[1:-1] + padded[2:]
    around = (down[:, :-2] + down[:, 1:-1] + down[:, 2:]) / np.float32(9)
    return np.asarray(_unit((1 - weight) * dense + weight * around), np.float32)


def cluster(dense: NDArray[np.float32], config: PseudoMasksConfig) -> NDArray[np.uint8]:
    """Partition one image: smoothing, seeds, k-means, merging, then the nearest centroid of every upsampled cell.

    Args:
        dense: features to cluster. Shape: (h, w, D), float32.
        config: see PseudoMasksConfig.

    Returns:
        Region numbers from 1 in order of area, 0 nowhere. Shape: (scale * h, scale * w), uint8.
    """
    dense = smoothed(_unit(dense.astype(np.float32)), config.smooth)
    points = np.ascontiguousarray(dense.reshape(-1, dense.shape[-1]))
    if config.method == "multiscale":
        seeds: NDArray[np.float32] | int = window_seeds(dense, config.windows)
    else:
        seeds = min(config.k, len(points))
    centroids = spherical_kmeans(points, seeds, config.iterations, config.seed)
    sizes = np.bincount((points @ centroids.T).argmax(1), minlength=len(centroids))
    merged = merge_centroids(centroids, sizes, config.merge)
    # similarities are upsampled, not labels: borders between tokens then follow the features
    similarity = (points @ merged.T).reshape(*dense.shape[:2], -1)
    fine = resize_grid(similarity, dense.shape[0] * config.scale, dense.shape[1] * config.scale)
    return number_by_area(fine.argmax(-1) + 1, 0)


def number_by_area(labels: NDArray[Any], min_cells: float) -> NDArray[np.uint8]:
    """Renumber regions 1.. from the largest down and drop those under `min_cells` (and beyond 254)."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")
    order = order[(areas[order] > 0) & (areas[order] >= min_cells)][:MAX_REGIONS]
    table = np.zeros(len(areas), np.uint8)
    table[order] = np.arange(1, len(order) + 1)
    return table[labels]


def pseudo_masks(
    dense: NDArray[np.float32], annotated: NDArray[np.bool_], config: PseudoMasksConfig
) -> NDArray[np.uint8]:
    """Cluster one image and keep what is not annotated.

    Args:
        dense: features to cluster. Shape: (h, w, D).
        annotated: pixels labelled with a seen class. Shape: (H, W).
        config: see PseudoMasksConfig.

    Returns:
        Regions of at least `min_area` of the image, 0 elsewhere. Shape: (scale * h, scale * w), uint8.
    """
    labels = cluster(dense, config)
    share = resize_share(annotated.astype(np.float32), *labels.shape)
    labels[share >= 0.5] = 0
    return number_by_area(labels, config.min_area * labels.size)


def clustering(ctx: StageContext) -> Callable[[str, NDArray[Any]], NDArray[np.uint8]]:
    """Return what makes the pseudo masks of an image from its id and the features to cluster, for any thread."""
    config: PseudoMasksConfig = ctx.config.pseudo_masks
    source = open_source(ctx.config.data, ctx.data_root)
    seen = ctx.config.classes.seen_ids

    def made(image_id: str, dense: NDArray[Any]) -> NDArray[np.uint8]:
        _, annotated = read_seen_labels(source, image_id, seen)
        try:
            return pseudo_masks(dense.astype(np.float32), annotated, config)
        except DataError as error:
            raise DataError(f"image {image_id}: {error}") from error

    return made


def single_blas_thread() -> AbstractContextManager[Any]:
    """Keep NumPy's products to one thread while images are clustered, a thread each: they would start more in each."""
    return threadpool_limits(1, "blas")


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Cluster and write one shard, in id order; every thread has images of its own."""
    features = ctx.inputs["features"].shards(shard.split)
    field = clustered_field(features.fields, ctx.config.pseudo_masks)
    make = clustering(ctx)

    def made(job: tuple[str, NDArray[Any]]) -> tuple[str, NDArray[np.uint8]]:
        return job[0], make(*job)

    # features are read in this thread: a ShardSet is not shared between threads
    jobs = ((image_id, features.read(image_id, field)) for image_id in shard.ids)
    with single_blas_thread():
        for done, (image_id, labels) in enumerate(in_order(made, jobs, torch.get_num_threads()), 1):
            writer.add(image_id, labels=labels)
            ctx.progress(done, len(shard.ids))
