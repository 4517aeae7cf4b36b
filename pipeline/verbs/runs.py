"""The verb `runs`: every trained or evaluated run of the cache, a line each."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from split_matching.configs.load import dataset_name, known_datasets, load_config
from split_matching.configs.schema import Config
from split_matching.errors import DataError, did_you_mean
from split_matching.pipeline.arguments import add_cache_options, cache_of, parse_output_file
from split_matching.pipeline.known_runs import list_runs
from split_matching.pipeline.run_tables import COLUMNS, choose_runs, sort_runs, to_csv, to_json, to_latex, to_text

HELP = "every trained or evaluated run of the cache, side by side"
DESCRIPTION = """
Prints a line for each run: key, date, data set, mIoU of seen (S) and unseen (U) classes and their harmonic mean (h),
seed, time and size of its training and evaluation, its present name, and the settings that differ from its data set's
config. Reads manifests only, so runs of a config file that is gone are listed too: they are compared with what most
runs of their data set have. A run that was trained and not evaluated has no results.
"""
EXIT_CODES = (
    "0 printed, 1 printed without what cannot be read, 2 wrong usage, or a condition on what no run has, "
    "3 no run of such a data set"
)
EXAMPLES = (
    "runs",
    "runs shapes --where train.matching=split 'h>80' --sort h",
    "runs --latex --where name!=",
    "runs --html runs.html",
)
PAGE = "runs.html"
WIDE = 200  # characters of a line where there is no terminal
FORMS = {"json": to_json, "csv": to_csv, "latex": to_latex}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `runs`."""
    add = parser.add_argument
    add("dataset", nargs="?", metavar="DATASET", help="only the runs of this data set, or of a YAML file of yours")
    add(
        "--where",
        action="extend",
        nargs="+",
        default=[],
        metavar="CONDITION",
        help=f"only runs with this: a setting or one of {', '.join(COLUMNS)}, then =, !=, <, >, <= or >=, and a value; "
        "time in seconds, size in bytes",
    )
    add("--sort", default="date", metavar="NAME", help="by a setting or one of these, best or newest first")
    add("--reverse", action="store_true", help="the other way round")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_const", const="json", dest="form", help="with all settings, unrounded")
    forms.add_argument("--csv", action="store_const", const="csv", dest="form", help="a line for each run, unrounded")
    forms.add_argument(
        "--latex", action="store_const", const="latex", dest="form", help="a table for a paper (booktabs)"
    )
    forms.add_argument(
        "--html",
        type=parse_output_file,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="write a page whose columns sort, with links to reports (default: runs.html in the folder of the cache)",
    )
    add_cache_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the runs, or write the page and print its path."""
    config = _config_of(options.dataset)
    root = config.runtime.artifacts if config and not options.artifacts else cache_of(options)
    skipped: list[str] = []
    found = list_runs(root, config, skipped.append)
    for line in skipped:
        print(f"warning: {line}", file=sys.stderr)
    if options.dataset:
        others = sorted({run.dataset for run in found})
        found = [run for run in found if run.dataset == dataset_name(options.dataset)]
        if not found and config is None:
            there = f"there are runs of {', '.join(others)}" if others else "there is no run at all"
            raise DataError(
                f"no run of {options.dataset!r} in {root}: {did_you_mean(options.dataset, others) or there}"
            )
    found = sort_runs(choose_runs(found, options.where), options.sort, options.reverse)
    if options.html is not None:
        from split_matching.pipeline.run_page import write_page

        path = root / PAGE if options.html == Path() else options.html
        write_page(path, found)
        print(path)
    elif options.form:
        print(FORMS[options.form](found))
    elif found:
        print(to_text(found, shutil.get_terminal_size((WIDE, 24)).columns))
    else:
        print(f"no such run in {root}")
    return 1 if skipped else 0


def _config_of(dataset: str | None) -> Config | None:
    """Return the config of a data set; None for one of which there is only its name."""
    if dataset and (dataset in known_datasets() or dataset != dataset_name(dataset)):
        return load_config(dataset)
    return None
