"""Pseudo masks as sheets and galleries show them: names, colours, and how well regions are separated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from split_matching.cache.artifact import Artifact
from split_matching.cache.shard_reader import ShardSet
from split_matching.stages.candidates.clustering.steps import to_unit_length
from split_matching.stages.data.resize import resize_share
from split_matching.stages.ground.region_map import masks_of
from split_matching.stages.pages.colours import region_colours
from split_matching.stages.pages.overlays import NO_LABEL, overlay

NEAREST = 3
"""Nearest class names shown of a region."""


class SeenNames:
    """Seen class names and their text embeddings, as the text artifact has them.

    Args:
        text: the text artifact.
    """

    def __init__(self, text: Artifact) -> None:
        self.names = [str(entry["name"]) for entry in text.manifest["config"]["classes"]["seen"]]
        self.embeddings = load_file(text.file("text.safetensors"))["seen"].astype(np.float32)

    def rank(self, embeddings: NDArray[Any]) -> list[list[tuple[int, float]]]:
        """Return for each row of (R, D) all classes by falling cosine: index and similarity."""
        similar = embeddings.astype(np.float32) @ self.embeddings.T
        return [[(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")] for row in similar]

    def format(self, ranked: Sequence[tuple[int, float]], count: int = NEAREST) -> str:
        """Return the nearest names with their similarities as text."""
        return ", ".join(f"{self.names[index]} {similarity:.2f}" for index, similarity in ranked[:count])


def open_embeddings(inputs: Mapping[str, Artifact]) -> ShardSet | None:
    """Return the region embeddings, or None where there are none of exactly the pseudo masks at hand."""
    if not {"regions", "text"} <= inputs.keys():
        return None
    if inputs["regions"].manifest["inputs"]["pseudo_masks/train"] != inputs["pseudo_masks"].content_of(("train",)):
        return None
    return inputs["regions"].shards("train")


def draw_regions(image: NDArray[np.uint8], labels: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    """Lay the regions of a label map over an image.

    Args:
        image: (H, W, 3) uint8.
        labels: (h, w) uint8, 0 is no region.
        alpha: share of the colour against the image, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    return overlay(image, count_from_zero(labels), region_colours(int(labels.max(initial=0))), alpha=alpha)


def count_from_zero(labels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return a label map that counts regions from 0, NO_LABEL outside of them."""
    return labels.astype(np.int32) - 1


def measure_separation(dense: NDArray[Any], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure how well the regions of an image are separated in feature space, without any label.

    For every token the cosine to the mean of its own region less that to the most similar other region's mean; the mean
    over the tokens of each region.

    Args:
        dense: the clustered features. Shape: (h, w, D).
        labels: 0 is no region. Shape: (H', W'), uint8.

    Returns:
        One number a region, 0 to 2 where clustering did well; NaN for a region that is smaller than a token, and for
        all when there is only one. Shape: (R,).

    Source: choice; the simplified silhouette with cosines.
    """
    shares = resize_share(masks_of(labels).astype(np.float32), *dense.shape[:2]).reshape(-1, dense[..., 0].size)
    result = np.full(len(shares), np.nan)
    owner = np.where(shares.max(0, initial=0) >= 0.5, shares.argmax(0), NO_LABEL) if len(shares) else np.array([])
    present = np.array([region for region in range(len(shares)) if (owner == region).any()], np.intp)
    if len(present) < 2:
        return result
    points = to_unit_length(dense.reshape(-1, dense.shape[-1]).astype(np.float32))
    cosines = points @ to_unit_length(np.stack([points[owner == region].mean(0) for region in present])).T
    for column, region in enumerate(present):
        own = cosines[owner == region]
        result[region] = (own[:, column] - np.delete(own, column, 1).max(1)).mean()
    return result
