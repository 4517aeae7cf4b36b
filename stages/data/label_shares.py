"""Which labels a map has, and how much of each cell of a coarser grid they cover; by histograms."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_shares(
    labels: NDArray[Any],
    values: NDArray[Any],
    height: int,
    width: int,
    cells: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> NDArray[np.float32]:
    """Share of every target cell that each of some labels covers, by one histogram of the whole map.

    The same numbers as `resize.resize_share` of the masks of the labels, to the bit.

    Args:
        labels: Shape: (H, W), unsigned integers.
        values: the labels, each once. Shape: (K,).
        height: cells wanted.
        width: cells wanted.
        cells: rows (h,) and columns (w,) of the map: what is covered is the map (h, w) of these. None for all, once.

    Returns:
        In 0..1. Shape: (K, height, width), float32.
    """
    rows, cols = cells or (np.arange(labels.shape[0]), np.arange(labels.shape[1]))
    rows, row_of, row_times, tall = _pool(rows, height)
    cols, col_of, col_times, wide = _pool(cols, width)
    first = np.full(int(np.iinfo(labels.dtype).max) + 1, len(values) * height * width)  # other labels: counted behind
    first[values] = np.arange(len(values)) * (height * width)
    bins = first.take(labels.take(rows, 0).take(cols, 1))  # in half the time of indexing
    bins += row_of[:, None] * width
    bins += col_of
    times = np.multiply.outer(row_times, col_times)
    counts = np.bincount(bins.ravel(), times.ravel(), minlength=(len(values) + 1) * height * width)
    shares = counts[: len(values) * height * width].reshape(-1, height, width).astype(np.float32)
    return shares / tall[:, None] / wide


def _pool(
    cells: NDArray[np.int64], want: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]]:
    """Return what each wanted cell averages over, along one axis: every pair of a cell and a wanted cell once.

    Returns:
        Of each pair the cell, the wanted cell, and how often it is there, (n,); how many each wanted cell has, (want,).
    """
    index, place, counts = _pooling_cells(len(cells), want)
    pairs, times = np.unique(cells[index] * want + place, return_counts=True)
    return pairs // want, pairs % want, times.astype(np.float64), counts


@lru_cache(maxsize=256)  # photographs come in a few dozen sizes
def _pooling_cells(have: int, want: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return which cells each wanted cell averages over, along one axis, as torch's adaptive pooling does.

    Returns:
        The cells, those of two neighbours twice; the wanted cell of each; and how many each wanted cell has, (want,).
    """
    place = np.arange(want)
    start, stop = place * have // want, -(-(place + 1) * have // want)
    counts = stop - start
    cells = np.arange(counts.sum()) + np.repeat(start - (counts.cumsum() - counts), counts)
    return cells, np.repeat(place, counts), counts.astype(np.float32)


def present_labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels that occur, ascending, unannotated left out. Shape: (K,)."""
    flat = labels.ravel()
    ends = np.append(flat[:-1][flat[1:] != flat[:-1]], flat[-1:])  # the last of each run: a few of all pixels
    return np.flatnonzero(np.bincount(ends, minlength=1)[: np.iinfo(labels.dtype).max])
