"""The verb `verify`: reads every file of the cache and renames damaged ones."""

from __future__ import annotations

import argparse

from split_matching.pipeline.arguments import add_config_options, add_images_option, add_log_option, load_plan
from split_matching.pipeline.repair import verify
from split_matching.pipeline.run.progress import show
from split_matching.pipeline.run.run_log import keep_log

HELP = "read every file of the cache that the config reaches, and rename damaged ones"
DESCRIPTION = """
Reads every file of the cache that the config reaches, and compares it with the checksum that was taken when it was
written. A damaged file is renamed to FILE.damaged, so that the next run makes that file again, and no other. With
--all it reads all other artifacts of the cache as well, of any config and data set.
"""
EXIT_CODES = (
    "0 all files are as they were written, 1 some cannot be read, 2 wrong usage or config, "
    "4 some file was damaged or missing"
)
EXAMPLES = ("verify --dataset shapes",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    add_config_options(parser)
    add_images_option(parser)
    add_log_option(parser)
    parser.add_argument("--all", action="store_true", help="read the artifacts of all other configs as well")


def run(options: argparse.Namespace) -> int:
    """Read the files, and print a line for each artifact or damaged file."""
    plan = load_plan(options)
    with keep_log(plan, options.verb, options.log_level):
        lines, code = verify(plan, options.all)
        show(*lines)
    return code
