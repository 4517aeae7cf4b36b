"""Steps that the clustering methods share: windows, checks and merging."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array

from split_matching.errors import DataError


def to_unit_length(rows: NDArray[Any]) -> NDArray[Any]:
    """Scale vectors to length 1; a zero vector remains zero. (..., D) -> (..., D)."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


@lru_cache(maxsize=64)  # photographs come in a few dozen grids
def window_matrix(height: int, width: int, windows: tuple[int, ...]) -> csr_array:
    """Which cells lie in which window: sums over all windows are one sparse product.

    Args:
        height: of the grid, cells.
        width: of the grid, cells.
        windows: sizes in cells; one larger than the grid is cut to it.

    Returns:
        1 where a cell lies in a window, each window once. Shape: (k, height * width), float32.
    """
    cells = np.arange(height * width).reshape(height, width)
    boxes: dict[tuple[int, int, int, int], None] = {}
    for size in windows:
        for y in _window_starts(height, size):
            for x in _window_starts(width, size):
                boxes[y, x, min(y + size, height), min(x + size, width)] = None
    members = [cells[y0:y1, x0:x1].ravel() for y0, x0, y1, x1 in boxes]
    start = np.cumsum([0, *(len(window) for window in members)])
    columns = np.concatenate(members)
    return csr_array((np.ones(len(columns), np.float32), columns, start), shape=(len(members), cells.size))


def _window_starts(length: int, size: int) -> list[int]:
    """Window starts along one axis, half a window apart; the last window ends at the border."""
    last = max(0, length - size)
    starts = list(range(0, last + 1, max(1, size // 2)))
    return starts if starts[-1] == last else [*starts, last]


def check_points(finite: bool, points: int, clusters: int) -> None:
    """Reject points that cannot be clustered.

    Args:
        finite: whether no point holds NaN or infinity.
        points: how many there are.
        clusters: how many are asked for.

    Raises:
        DataError: NaN among the points, or fewer points than clusters.
    """
    if not finite:
        raise DataError(
            "dense features contain NaN: the CLIP weights or the cached features are damaged; re-extract them"
        )
    if points < clusters:
        raise DataError(
            f"{points} tokens cannot make {clusters} clusters: "
            "raise features.size, or lower pseudo_masks.k or the number of pseudo_masks.windows"
        )


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
    return to_unit_length(member @ kept).astype(np.float32)
