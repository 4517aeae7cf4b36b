"""MeasureRegions: how many pseudo masks each training image has, and how large they are."""

from __future__ import annotations

import csv

import numpy as np

from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.protocol import Summary


def run(ctx: StageContext) -> Summary:
    """Write `sizes.csv`: for each image its regions and their mean area, as a share of the image.

    Args:
        ctx: input `pseudo_masks`.

    Returns:
        The number of images, and of regions in all.
    """
    masks = ctx.inputs["pseudo_masks"].shards("train")
    total = 0
    with (ctx.out / "sizes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "regions", "mean_area"])
        for done, image_id in enumerate(masks.ids, start=1):
            labels = masks.read(image_id, "labels")  # (H', W') uint8: 0 none, 1..R regions
            areas = np.bincount(labels.ravel())[1:] / labels.size  # (R,)
            table.writerow([image_id, len(areas), f"{areas.mean() if len(areas) else 0:.4f}"])
            total += len(areas)
            ctx.progress(done, len(masks.ids))
    return {"images": len(masks.ids), "regions": total}
