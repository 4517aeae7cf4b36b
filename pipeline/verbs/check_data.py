"""The verb `check-data`: needs no artifact, and makes none."""

from __future__ import annotations

from pathlib import Path

from split_matching.configs.class_list import classes_of
from split_matching.errors import DataError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import ProgressDisplay

NAME = "check-data"


def check(plan: Plan, out: Path | None, limit: int | None) -> tuple[list[str], bool]:
    """Look at the data set of a plan and draw its contact sheet.

    Args:
        plan: the plan of the config.
        out: the PNG file to write; None for a place in the cache's folder.
        limit: most images of each split; None for all.

    Returns:
        What to print, the path of the sheet last; and whether there is no problem.

    Raises:
        DataError: there is no data set to look at.
    """
    from split_matching.stages.data.audit import check_data
    from split_matching.stages.pages.contact_sheet import write_contact_sheet

    config = plan.config
    root = plan.folder("shapes") if "shapes" in plan.stages else config.data.root
    if "shapes" in plan.stages and not plan.folder("shapes").is_dir():
        raise DataError(f"{config.dataset} is not rendered yet: run RenderShapes first")
    board = ProgressDisplay([NAME], ["images"])
    board.start(NAME)
    found = check_data(config.data, classes_of(config.data), root, board.counter(NAME), limit, config.runtime.threads)
    board.end(NAME)
    path = out or plan.store.root / config.dataset / NAME / "sheet.png"
    write_contact_sheet(found, config.data, root, path)
    return [*found.lines(), str(path)], found.fine
