"""The verb `export`: writes a trained decoder and its config to one file."""

from __future__ import annotations

import argparse

from split_matching.pipeline.arguments import (
    add_config_options,
    add_images_option,
    config_arguments,
    load_plan,
    parse_output_file,
)
from split_matching.pipeline.trained_run import segmenter_of

HELP = "write a trained decoder and its config to one file"
DESCRIPTION = """
Writes the trained decoder of a config to one safetensors file, with the settings that inference needs. CLIP's weights
are not in it: a digest of them is, which is checked when the file is loaded.
"""
EXIT_CODES = "0 written, 2 wrong usage or config, 3 no trained run, or weights missing"
EXAMPLES = ("export --dataset voc --out decoder.safetensors",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    add_config_options(parser)
    add_images_option(parser)
    parser.add_argument(
        "--out", type=parse_output_file, required=True, metavar="FILE", help="the .safetensors file to write"
    )


def run(options: argparse.Namespace) -> int:
    """Write the file, and print its path."""
    from split_matching.pipeline.run.work import set_threads

    plan = load_plan(options)
    set_threads(plan.config.runtime, alone=True)
    segmenter_of(plan, config_arguments(options)).save(options.out)
    print(options.out)
    return 0
