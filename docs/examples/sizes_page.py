"""RegionPage: the sizes of pseudo masks as one HTML page that loads nothing."""

from __future__ import annotations

import csv

from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.protocol import Summary
from split_matching.stages.pages.formats import page_template


def run(ctx: StageContext) -> Summary:
    """Write `sizes.html`, images with the most regions first.

    Args:
        ctx: input `region_sizes`.

    Returns:
        The number of images.
    """
    with ctx.inputs["region_sizes"].file("sizes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: (-int(row["regions"]), row["image"]))
    (ctx.out / "sizes.html").write_text(page_template("sizes.html.j2").render(rows=rows), encoding="utf-8")
    return {"images": len(rows)}
