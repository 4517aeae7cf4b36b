"""The verb `check-data`: looks for problems in a data set. Reads no artifact and makes none."""

from __future__ import annotations

import argparse
from pathlib import Path

from split_matching.configs.class_list import load_classes
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.arguments import (
    add_config_options,
    add_log_option,
    check_output_file,
    load_plan,
    parse_output_file,
    whole_number,
)
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import ProgressDisplay, show
from split_matching.pipeline.run.run_log import keep_log
from split_matching.pipeline.typed_paths import as_typed

HELP = "what a data set holds, and problems in it; needs only the data"
DESCRIPTION = """
Reads the lists, and every image and mask: pixels and images of each class, masks of the wrong kind or size, ids
outside the class list and shifted ids, missing files, images that are in both splits. Draws images beside their masks
on a contact sheet, and prints its path last. Needs only the data, and makes nothing in the cache.
"""
EXIT_CODES = "0 no problem (there may be notes), 2 wrong usage or config, 3 there are problems, or no data"
EXAMPLES = (
    "check-data --dataset folder --set data.root=/data 'data.unseen=[sofa, train]'",
    "check-data --dataset /data/mydata.yaml --limit 500 --out sheet.png",
)
NAME = "check-data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check-data`."""
    add_config_options(parser)
    add_log_option(parser)
    parser.add_argument(
        "--out",
        type=parse_output_file,
        metavar="FILE",
        help="the PNG to write (default: artifacts/DATASET/check-data/sheet.png)",
    )
    parser.add_argument(
        "--limit",
        type=whole_number(1),
        metavar="N",
        help="largest number of images of each split, evenly spread (default: all)",
    )


def run(options: argparse.Namespace) -> int:
    """Read the data, and print what was found."""
    try:
        plan = load_plan(options)
        check_output_file(options.out, options, plan.config)
        with keep_log(plan, options.verb, options.log_level):
            lines, passed = check_data(plan, options.out, options.limit)
            show(*(as_typed(line, options) for line in lines))
    except (ConfigError, DataError) as error:
        raise type(error)(as_typed(str(error), options)) from error
    return 0 if passed else DataError.exit_code


def check_data(plan: Plan, out: Path | None, limit: int | None) -> tuple[list[str], bool]:
    """Read the data set of a plan and draw its contact sheet.

    Args:
        plan: the plan of the config.
        out: the PNG file to write; None for a place in the cache's folder.
        limit: largest number of images of each split; None for all.

    Returns:
        What to print, the path of the sheet last; and whether there is no problem.

    Raises:
        DataError: there is no data set to read.
    """
    from split_matching.stages.data.audit import audit_data
    from split_matching.stages.pages.contact_sheet import write_contact_sheet

    config = plan.config
    root = plan["shapes"].entry.folder if "shapes" in plan.stages else config.data.root
    if "shapes" in plan.stages and not plan["shapes"].entry.folder.is_dir():
        raise DataError(f"{config.dataset} is not rendered yet: run RenderShapes first")
    display = ProgressDisplay([NAME], ["images"])
    display.start(NAME)
    count = display.counter(NAME)
    audit = audit_data(config.data, load_classes(config.data), root, count, limit, config.runtime.threads)
    display.end(NAME)
    path = out or plan.root / config.dataset / NAME / "sheet.png"
    write_contact_sheet(audit, config.data, root, path)
    return [*audit.lines(), str(path)], audit.passed
