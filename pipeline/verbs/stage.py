"""A stage's name as a verb: makes its result fresh, with all that it needs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial

from split_matching.cache.notes import change_note
from split_matching.configs.schema import Config
from split_matching.pipeline.arguments import (
    add_config_options,
    add_device_option,
    add_images_option,
    add_log_option,
    add_run_options,
    load_plan,
)
from split_matching.pipeline.known_runs import check_run_name
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run.launch import Options, launch
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.stages.ground.context import Progress

DESCRIPTION = """
Results that are fresh in the cache are not made again. Ctrl-C at any time: finished shards and checkpoints are kept,
and the same command continues from there. The last line printed is the path of the result."""
EXIT_CODES = """0 fresh, 1 a stage failed, 2 wrong usage or config, 3 data or weights missing, 4 a file of the cache is
damaged, 130 interrupted"""


EXAMPLES = {
    "RenderShapes": ("--dataset shapes --set shapes.train_scenes=200",),
    "PretrainClip": ("--dataset shapes --set clip.weights=pretrain pretrain.steps=500",),
    "PrepareDataset": ("--dataset voc --download", "--dataset voc --set data.root=/data"),
    "EmbedText": ("--dataset voc --set clip.weights=/data/ViT-B-16.pt",),
    "ExtractFeatures": ("--dataset voc_cached --workers 4", "--dataset shapes --images train_000001,val_000003"),
    "ClusterPseudoMasks": ("--dataset shapes --set pseudo_masks.merge=0.8 --workers 2",),
    "EmbedRegions": ("--dataset shapes --set regions.method=attention --workers 2",),
    "TrainDecoder": ("--dataset shapes --set train.steps=300 train.validate_every=50",),
    "Evaluate": ("--dataset shapes --set evaluate.gamma=0.1", "--dataset voc --trained-on coco_stuff"),
    "Report": (
        "--dataset shapes --workers 2",
        "--dataset voc --set data.root=/data --set-file configs/backbones/siglip.yaml",
    ),
}
NAMED = {"TrainDecoder": "train", "Evaluate": "evaluate", "Report": "evaluate"}
"""Stages that take a name for the run: the stage whose result is the run."""


def examples(name: str) -> tuple[str, ...]:
    """Return examples for one stage."""
    return tuple(f"{name} {words}" for words in EXAMPLES.get(name, ("--dataset shapes",)))


def add_arguments(parser: argparse.ArgumentParser, stage: type[Stage]) -> None:
    """Add the arguments of a stage."""
    name = stage.__name__
    add_config_options(parser)
    if stage.on_device:
        add_device_option(parser)
    add_run_options(parser)
    add_images_option(parser)
    parser.add_argument("--force", action="store_true", help="make this one stage again even if it is fresh")
    parser.add_argument("--quiet", action="store_true", help="print only the path of the result")
    add_log_option(parser)
    parser.set_defaults(download=False, name="")
    if name in NAMED:
        parser.add_argument("--name", default="", metavar="NAME", help="what to call the run, see `runs` and `note`")
    if name in ("Evaluate", "Report"):
        parser.add_argument(
            "--trained-on",
            metavar="NAME",
            help="evaluate the decoder of another data set: its name, or an exported decoder (.safetensors)",
        )
    if name == "PrepareDataset":
        parser.add_argument("--download", action="store_true", help="first download and derive what is missing")


def run(options: argparse.Namespace) -> int:
    """Make the stage that is named on the command line fresh; returns the exit code."""
    plan = load_plan(options)
    if options.download:
        download(plan.config, options.quiet)
    if options.name:
        name_run(plan[NAMED[options.verb]], options.name)
    return launch(plan.stage(options.verb), Options(options.force, options.debug, options.quiet, options.log_level))


def name_run(stage: Stage, name: str) -> None:
    """Keep the name of a run beside the place of its result, which need not be there yet.

    Raises:
        UserError: the name cannot be one, or the raw files or weights that decide about the place are not there.
    """
    entry = stage.entry
    change_note(entry.root, entry.dataset, entry.key, name=check_run_name(name))


def download(config: Config, quiet: bool) -> None:
    """Download and derive what the data set lacks, before the plan looks for its raw files.

    Args:
        config: the resolved config.
        quiet: show no progress.

    Raises:
        UserError: nothing can be downloaded for this layout, or it failed.
    """
    from split_matching.stages.data.download.catalogue import download_data

    if config.data.root is not None:  # else that is said
        ProgressDisplay(quiet=quiet).say(f"{config.dataset}: what is missing goes to {config.data.root} (data.root)")
    download_data(config.data, partial(_show_progress, quiet))


@contextlib.contextmanager
def _show_progress(quiet: bool, name: str, unit: str) -> Iterator[Progress]:
    """Show the progress of one download; the part of an earlier run does not count as speed."""
    display, before = ProgressDisplay([name], [unit], quiet=quiet), -1

    def count(done: int, total: int) -> None:
        nonlocal before
        if before < 0:
            before = done
            display.start(name, total, before)
        display.counter(name)(max(0, done - before), total)

    yield count
    display.end(name)
