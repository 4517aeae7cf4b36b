"""The verb `pull`: fetches artifacts from an address that several people share."""

from __future__ import annotations

import argparse

from split_matching.pipeline.arguments import add_config_options, add_images_option, add_remote_option

HELP = "fetch artifacts from an address that others share"
DESCRIPTION = """
Fetches artifacts from the address of --remote: of the stages or keys that are named, else of all stages of the config.
Of stages only what would be fresh here is taken, of keys only what is not here yet; nothing else here is replaced.
Every file is compared with its checksum; an interrupted pull continues with the files that are not here yet. A run with
--remote pulls by itself what it needs.
"""
EXIT_CODES = (
    "0 done, 1 the address cannot be reached, 2 wrong usage or config, 3 no such artifact, it would be stale here, "
    "or another one is here, 4 a file is damaged"
)
EXAMPLES = (
    "pull --dataset shapes --remote s3://bucket/cache",
    "pull ExtractFeatures EmbedRegions --dataset shapes --remote file:///shared/cache",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pull`."""
    add_config_options(parser)
    add_remote_option(parser)
    add_images_option(parser)
    parser.add_argument("names", nargs="*", metavar="STAGE or KEY", help="what to fetch (default: all of the config)")


def run(options: argparse.Namespace) -> int:
    """Fetch them, and print a line for each."""
    from split_matching.pipeline.sharing import pull, share

    return share(options, pull)
