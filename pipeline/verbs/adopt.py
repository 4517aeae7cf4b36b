"""The verb `adopt`: accepts the present code for what is in the cache, and runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from split_matching.cache.accept import accept_code
from split_matching.errors import DataError
from split_matching.pipeline.arguments import add_config_options, add_images_option, load_plan, parse_stage
from split_matching.pipeline.nearest import describe_missing
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.text import describe_state

HELP = "accept the present code for what is in the cache, and run nothing"
DESCRIPTION = """
Records the present code as the code that made the artifact of a stage, so that it is fresh again: for a change that
cannot alter the result, such as another error message. Says which files it accepted; a stage that is stale for another
reason stays stale.
"""
EXIT_CODES = "0 accepted, 2 wrong usage or config, 3 no such artifact, or data or weights missing, 4 it cannot be read"
EXAMPLES = ("adopt ExtractFeatures EmbedRegions --dataset shapes",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `adopt`."""
    add_config_options(parser)
    add_images_option(parser)
    parser.add_argument("stages", nargs="+", type=parse_stage, metavar="STAGE", help="whose artifact to accept")


def run(options: argparse.Namespace) -> int:
    """Accept the code, and print what was accepted."""
    print(*adopt(load_plan(options), options.stages), sep="\n")
    return 0


def adopt(plan: Plan, stages: Sequence[str]) -> list[str]:
    """Accept the present code for the artifacts of some stages, and return what was accepted.

    Raises:
        DataError: there is no artifact.
        CorruptError: its manifest is damaged.
        UserError: the cache cannot be written.
    """
    lines = []
    for name in stages:
        stage = plan.stage(name)
        if stage.own_state.name == "missing":
            raise DataError(describe_missing(stage))
        artifact = stage.artifact()
        accepted = accept_code(artifact, stage.code)
        what = f"accepted the present {', '.join(accepted)}" if accepted else "its code is the present one"
        lines.append(f"{name}: {what} for {artifact.path}")
        lines.append(f"{name}: {describe_state(stage.state)}")
    return lines
