"""The regions of an image at many settings of `pseudo_masks.merge`, as ClusterPseudoMasks makes them at each.

An image is clustered once; only the merging is done again. For looking at: no stage reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_matching.configs.clusterings import find_clustering
from split_matching.configs.settings import PseudoMasksConfig
from split_matching.stages.candidates.clustering import cluster_at
from split_matching.stages.candidates.pseudo_masks import free_cells, remove_annotated
from split_matching.stages.candidates.quality import best_overlap

MERGES = tuple(round(0.5 + place / 100, 2) for place in range(49))
"""Settings that are looked at: 0.50 to 0.98 (choice: less is one region in most images, more hardly merges)."""


@dataclass(frozen=True)
class Sweep:
    """One image at some settings of `merge`.

    Args:
        maps: its region maps, one a setting; equal neighbours are one object. Shapes: (H', W'), uint8.
        overlaps: IoU of the best cluster with each seen class that is annotated. Shape: (settings, classes).
    """

    maps: list[NDArray[np.uint8]]
    overlaps: NDArray[np.float64]


def settings_of(config: PseudoMasksConfig) -> list[float]:
    """Return the settings to look at, rising, the config's among them; that one alone where nothing reads `merge`."""
    if "merge" in find_clustering(config.method, config.engine).unused:
        return [config.merge]
    return sorted({*MERGES, config.merge})


def sweep_image(
    dense: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    annotated: NDArray[np.bool_],
    config: PseudoMasksConfig,
    merges: list[float],
) -> Sweep:
    """Cluster one image and merge at every setting.

    Args:
        dense: features to cluster. Shape: (h, w, D).
        labels: index of the seen class of every pixel. Shape: (H, W).
        annotated: pixels labelled with a seen class. Shape: (H, W).
        config: everything but `merge`.
        merges: the settings.
    """
    everywhere = np.ones(dense.shape[:2], bool)
    free = free_cells(annotated, (dense.shape[0], dense.shape[1]), config.tokens)
    whole = cluster_at(dense, everywhere, config, merges)
    clusters = whole
    if not free.any():
        clusters = [np.zeros_like(found) for found in whole]
    elif not free.all():
        clusters = cluster_at(dense, free, config, merges)
    maps: list[NDArray[np.uint8]] = []
    for place, found in enumerate(clusters):
        if place and found is clusters[place - 1]:
            maps.append(maps[-1])
            continue
        kept = remove_annotated(found, annotated, config)
        maps.append(maps[-1] if maps and np.array_equal(maps[-1], kept) else kept)
    return Sweep(maps, _overlaps(whole, labels, annotated))


def _overlaps(
    clusters: list[NDArray[np.uint8]], labels: NDArray[np.integer[Any]], annotated: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU of the best cluster with each annotated class at each setting; see `quality.best_overlap`."""
    truth = [labels == value for value in np.unique(labels[annotated])]
    found: dict[int, list[float]] = {}
    for map_ in clusters:
        if id(map_) not in found:
            found[id(map_)] = [best_overlap(map_, mask)[1] for mask in truth]
    return np.array([found[id(map_)] for map_ in clusters]).reshape(len(clusters), len(truth))
