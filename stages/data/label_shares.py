"""Which labels a map has, and how much of each cell of a coarser grid they cover; by histograms."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_shares(labels: NDArray[Any], values: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Share of every target cell that each of some labels covers, by one histogram of the whole map.

    The same numbers as `resize.resize_share` of the masks of the labels, to the bit.

    Args:
        labels: Shape: (H, W), unsigned integers.
        values: the labels, each once. Shape: (K,).
        height: cells wanted.
        width: cells wanted.

    Returns:
        In 0..1. Shape: (K, height, width), float32.
    """
    rows, row_of, tall = _pooling_cells(labels.shape[0], height)
    cols, col_of, wide = _pooling_cells(labels.shape[1], width)
    if len(rows) > labels.shape[0] or len(cols) > labels.shape[1]:  # cells that share a row or column
        labels = labels[rows[:, None], cols]
    first = np.full(int(np.iinfo(labels.dtype).max) + 1, len(values) * height * width)  # other labels: counted behind
    first[values] = np.arange(len(values)) * (height * width)
    bins = first[labels]
    bins += row_of[:, None] * width
    bins += col_of
    counts = np.bincount(bins.ravel(), minlength=(len(values) + 1) * height * width)
    shares = counts[: len(values) * height * width].reshape(-1, height, width).astype(np.float32)
    return shares / tall[:, None] / wide


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
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=1)[: np.iinfo(labels.dtype).max])
