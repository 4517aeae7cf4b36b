"""How many regions the pseudo masks of a data set have: too few show nothing, too many find no query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `plan` and `status` do without HDF5, and without NumPy
    from split_matching.cache.shard_reader import ShardSet

MOST_CROWDED = 0.05
"""Share of images with more regions than candidate queries from which a warning is given (choice)."""


def count_regions(shards: ShardSet) -> dict[str, Any]:
    """Count the regions of all images.

    Args:
        shards: of pseudo masks; reads `labels`.

    Returns:
        Of regions an image: `regions` (mean), `regions_5` and `regions_95` (percentiles), `regions_most`, and
        `images_by_regions`, in how many images there are 0, 1, 2, ... of them. `without_regions`: percent of the
        images; `region_area`: mean percent of the image that a region covers.
    """
    import numpy as np

    counts, area = [], 0.0
    for image_id in shards.ids:
        labels = shards.read(image_id, "labels")
        counts.append(int(labels.max(initial=0)))
        area += np.count_nonzero(labels) / labels.size
    return {
        "regions": round(float(np.mean(counts)), 2),
        "regions_5": float(np.percentile(counts, 5, method="lower")),
        "regions_95": float(np.percentile(counts, 95, method="higher")),
        "regions_most": max(counts),
        "without_regions": round(100 * counts.count(0) / len(counts), 2),
        "region_area": round(100 * area / max(1, sum(counts)), 2),
        "images_by_regions": np.bincount(counts).tolist(),
    }


def describe_regions(summary: Mapping[str, Any], queries: int) -> list[str]:
    """Return what the numbers say, and a warning with the remedy where they are bad for training.

    Args:
        summary: what `count_regions` returned.
        queries: `decoder.candidate_queries`.
    """
    images: list[int] = summary["images_by_regions"]
    regions = sum(number * count for number, count in enumerate(images))
    beyond = sum((number - queries) * count for number, count in enumerate(images) if number > queries) / max(
        1, regions
    )
    crowded = sum(images[queries + 1 :]) / sum(images)
    spread = f"5 %: {summary['regions_5']:.0f}, 95 %: {summary['regions_95']:.0f}, most: {summary['regions_most']}"
    lines = [
        f"{summary['regions']:.1f} regions an image ({spread}), none in {summary['without_regions']:.1f} % of the "
        f"images; a region is {summary['region_area']:.1f} % of an image; "
        f"{100 * beyond:.1f} % of the regions are beyond the {queries} candidate queries"
    ]
    if 2 * sum(images[:2]) >= sum(images):
        lines.append("warning: half of the images have at most one region: raise pseudo_masks.merge")
    elif queries and crowded > MOST_CROWDED:
        lines.append(
            f"warning: {100 * crowded:.0f} % of the images have more regions than queries: raise "
            f"decoder.candidate_queries above {queries}, or lower pseudo_masks.merge"
        )
    return lines
