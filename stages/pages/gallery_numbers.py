"""Numbers of the gallery over all images: curves over the settings of `merge`, and where regions lie on the map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.stages.candidates.sweep import Sweep

MAP_SIDE = 1000
"""Coordinates on the map are 0..MAP_SIDE."""


class RegionCurves:
    """Sums over images, for each setting.

    Args:
        merges: the settings.
        queries: candidate queries of the decoder.
    """

    def __init__(self, merges: list[float], queries: int) -> None:
        self.merges, self.queries = merges, queries
        self.images = 0
        # regions, share of the image that they cover, images with more than `queries`, sum of IoU, classes
        self.sums = np.zeros((5, len(merges)))

    def add(self, sweep: Sweep) -> None:
        """Count one image."""
        counts = np.array([int(map_.max(initial=0)) for map_ in sweep.maps])
        covered = [np.count_nonzero(map_) / map_.size for map_ in sweep.maps]
        seen = np.full(len(counts), sweep.overlaps.shape[1])
        self.sums += np.stack([counts, covered, counts > self.queries, sweep.overlaps.sum(1), seen])
        self.images += 1

    def describe(self) -> dict[str, Any]:
        """Return the curves as JSON values.

        `merges`; `queries`; of an image on average `regions` and `covered` (percent of it); `crowded`, percent of the
        images with more regions than queries; `iou` of the best cluster with an annotated seen class in percent, null
        where none is annotated.
        """
        regions, covered, crowded, overlap, seen = self.sums
        images = max(1, self.images)
        return {
            "merges": self.merges,
            "queries": self.queries,
            "regions": _round(regions / images),
            "covered": _round(100 * covered / images),
            "crowded": _round(100 * crowded / images),
            "iou": _round(100 * overlap / seen) if seen.all() else None,
        }


def _round(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 2) for value in values]


def principal_plane(rows: NDArray[np.float32]) -> list[int]:
    """Project vectors to the plane of their two largest principal components.

    Args:
        rows: Shape: (n, D).

    Returns:
        x and y of each in turn, 0 to MAP_SIDE, each axis stretched to its range; empty for fewer than three.
    """
    if len(rows) < 3 or rows.shape[1] < 2:
        return []
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, [-1, -2]]
    axes *= np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # an eigenvector has no sign of its own
    places = centred @ axes
    low, high = places.min(0), places.max(0)
    return np.round(MAP_SIDE * (places - low) / np.maximum(high - low, 1e-12)).astype(int).ravel().tolist()
