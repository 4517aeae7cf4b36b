"""The verb `export`: writes a trained decoder to one file, or pseudo masks in formats of other programs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from split_matching.environment import command
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.arguments import (
    add_config_options,
    add_images_option,
    check_output_file,
    config_arguments,
    load_plan,
    parse_output_file,
    parse_output_folder,
)
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.text import describe_state
from split_matching.pipeline.trained_run import segmenter_of

HELP = "write a trained decoder, or pseudo masks, for use elsewhere"
DESCRIPTION = """
decoder (the default) writes the trained decoder of a config to one safetensors file, with the settings that inference
needs. CLIP's weights are not in it: a digest of them is, which is checked when the file is loaded.

pseudo_masks writes the regions of the training images, at the images' sizes:
  --to coco   one JSON file of COCO's format; every region is an annotation of the one category "region"
  --to png    a folder with masks/ID.png (the value of a pixel is the number of its region, 0 is none), links to the
              images in images/, train.txt and classes.txt; the layout `folder` reads it
"""
EXIT_CODES = "0 written, 2 wrong usage or config, 3 no trained run or pseudo masks, or weights missing"
EXAMPLES = (
    "export --dataset voc --out decoder.safetensors",
    "export pseudo_masks --dataset voc --to coco --out pseudo_masks.json",
    "export pseudo_masks --dataset voc --to png --out pseudo_masks",
)
KINDS = ("decoder", "pseudo_masks")
FORMATS = ("coco", "png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    add_config_options(parser)
    add_images_option(parser)
    add = parser.add_argument
    add("kind", nargs="?", choices=KINDS, default="decoder", metavar="KIND", help="decoder (default) or pseudo_masks")
    add("--to", choices=FORMATS, help="the format of pseudo masks: coco or png")
    add("--out", required=True, metavar="PATH", help="the file to write; the folder for --to png")


def run(options: argparse.Namespace) -> int:
    """Write the file or folder, and print its path."""
    from split_matching.pipeline.run.work import set_up_cpu

    if (options.kind == "pseudo_masks") != (options.to is not None):
        raise ConfigError(
            "--to says the format of pseudo masks: expected `export pseudo_masks --to coco` or `--to png`"
        )
    try:
        out = (parse_output_folder if options.to == "png" else parse_output_file)(options.out)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"argument --out: {error}") from None
    plan = load_plan(options)
    check_output_file(out, options, plan.config)
    set_up_cpu(plan.config.runtime, alone=True)
    words = config_arguments(options)
    if options.kind == "pseudo_masks":
        print(export_pseudo_masks(plan, options.to, out, words))
    else:
        segmenter_of(plan, words).save(out)
    print(out)
    return 0


def export_pseudo_masks(plan: Plan, to: str, out: Path, arguments: list[str]) -> str:
    """Write pseudo masks.

    Args:
        plan: the plan of the config.
        to: one of FORMATS.
        out: file or folder to write.
        arguments: the words of the command line that choose the config, for the command that a message names.

    Returns:
        What was written, in words.

    Raises:
        DataError: the pseudo masks are missing or not fresh.
    """
    stage = plan["pseudo_masks"]
    if not stage.state.fresh:
        raise DataError(
            f"the pseudo masks of {plan.config.dataset} in {plan.root} are {describe_state(stage.state)}: run "
            f"`{command()} {stage.command} {shlex.join(arguments)}`"
        )
    from split_matching.stages.candidates.mask_export import MaskExporter
    from split_matching.stages.data.source import open_source
    from split_matching.stages.ground.region_map import MAX_REGIONS
    from split_matching.stages.pages.colours import region_colours

    data_root = stage.data_root
    display = ProgressDisplay(["export"], ["images"])
    exporter = MaskExporter(
        masks=stage.artifact(),
        dataset=plan["dataset"].artifact(),
        source=open_source(plan.config.data, data_root),
        progress=display.counter("export"),
    )
    display.start("export")
    written = (
        exporter.write_coco(out, data_root) if to == "coco" else exporter.write_pngs(out, region_colours(MAX_REGIONS))
    )
    display.end("export")
    return "{} images, {} regions".format(*written)
