"""The verb `push`: sends artifacts to an address that several people share."""

from __future__ import annotations

import argparse
from functools import partial

from split_matching.pipeline.arguments import add_config_options, add_images_option, add_remote_option

HELP = "send artifacts to an address that others share"
DESCRIPTION = """
Sends artifacts to the address of --remote, for others: of the stages or keys that are named, else of all stages that
are fresh. Every file is sent once, and an interrupted push continues with the files that are not there yet. The first
one wins: what somebody has pushed already is never replaced. A file that is there is known by its size alone; with
--verify it is read and compared with its checksum. What is missing or altered there is sent again.
"""
EXIT_CODES = (
    "0 done, 1 the address cannot be reached, 2 wrong usage or config, 3 no such artifact, or another one is there, "
    "4 a file is damaged"
)
EXAMPLES = (
    "push --dataset shapes --remote s3://bucket/cache",
    "push ExtractFeatures EmbedRegions --dataset shapes --remote file:///shared/cache",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    add_config_options(parser)
    add_remote_option(parser)
    add_images_option(parser)
    parser.add_argument(
        "--verify", action="store_true", help="read all files that are there, and send altered ones again"
    )
    parser.add_argument("names", nargs="*", metavar="STAGE or KEY", help="what to send (default: all of the config)")


def run(options: argparse.Namespace) -> int:
    """Send them, and print a line for each."""
    from split_matching.pipeline.sharing import push, share

    return share(options, partial(push, verify=options.verify))
