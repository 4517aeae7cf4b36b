"""What the cache holds about one image: a sheet with pictures, and the same as text.

Names come from the text artifact, so from the seen classes only; predictions alone show unseen names, which the
evaluation wrote beside its numbers. What is shown is what the artifacts hold, stale or not: the notes say which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.sheets.feature_sheet import build_feature_sheet
from split_matching.stages.pages.sheets.match_sheet import build_match_sheet
from split_matching.stages.pages.sheets.prediction_sheet import build_prediction_sheet
from split_matching.stages.pages.sheets.region_sheets import build_pseudo_mask_sheet, build_region_sheet
from split_matching.stages.pages.sheets.sheet import Sheet, write_sheet
from split_matching.stages.pages.sheets.sources import States

SHEETS: Mapping[str, Callable[[StageContext, str, States], Sheet]] = {
    "pseudo_masks": build_pseudo_mask_sheet,
    "regions": build_region_sheet,
    "features": build_feature_sheet,
    "matches": build_match_sheet,
    "predictions": build_prediction_sheet,
}


def inspect_image(ctx: StageContext, kind: str, image_id: str, states: States, path: Path) -> list[str]:
    """Draw one image's sheet into a file.

    Args:
        ctx: inputs are the artifacts that the kind of sheet needs, and others where there are.
        kind: see SHEETS.
        image_id: which image.
        states: of the artifacts.
        path: the PNG file to write.

    Returns:
        The sheet as text.

    Raises:
        DataError: there is no such image.
    """
    sheet = SHEETS[kind](ctx, image_id, states)
    write_sheet(sheet, path)
    return sheet.lines()
