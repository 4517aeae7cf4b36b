"""The verb `inspect`: pictures of what the cache holds about one image or about all of them, fresh or not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from split_matching.cache.artifact import Artifact
from split_matching.configs.slices import build_slice
from split_matching.errors import ConfigError, CorruptError, DataError
from split_matching.pipeline.arguments import (
    add_config_options,
    add_device_option,
    add_images_option,
    check_output_file,
    load_plan,
    parse_output_file,
    whole_number,
)
from split_matching.pipeline.nearest import describe_missing
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.text import describe_state
from split_matching.stages.ground.context import StageContext

HELP = "pictures of what the cache holds about an image"
DESCRIPTION = """
Draws what the cache holds about one image, prints the same as text, and the path of the picture last:

  pseudo_masks  regions with number, area, how different each is from the others, and the nearest seen classes
  regions       what CLIP says of the crop of each region
  features      dense features as colours, and the nearest seen class of every token
  matches       which query of each group took which target, with the trained weights
  predictions   truth and prediction of a validation image, and the IoU of each class in it
  quality       numbers, no picture, no --image: how well clusters cover annotated seen classes, and how often CLIP
                names them right; pseudo_masks and regions can be tuned by it without a look at unseen classes

Without --image, pseudo_masks makes one HTML page of all images: a slider for pseudo_masks.merge, filters, and a map of
the regions' embeddings. Artifacts are shown as they are, stale or not; the text says which.
"""
EXIT_CODES = "0 drawn, 2 wrong usage or config, 3 no such image, or nothing in the cache to show, 4 a damaged file"
EXAMPLES = (
    "inspect pseudo_masks --dataset shapes --image train_000012",
    "inspect pseudo_masks --dataset shapes --out gallery.html",
)

# the artifacts that each kind needs, and those that it shows more with
NEEDS: Mapping[str, tuple[str, ...]] = {
    "pseudo_masks": ("pseudo_masks", "features", "dataset"),
    "regions": ("regions", "pseudo_masks", "features", "text", "dataset"),
    "features": ("features", "dataset"),
    "matches": ("train", "regions", "pseudo_masks", "features", "text", "dataset"),
    "predictions": ("evaluate", "dataset"),
    "quality": ("features", "text", "dataset"),
}
MORE: Mapping[str, tuple[str, ...]] = {
    "pseudo_masks": ("regions", "text"),
    "features": ("text",),
    "predictions": ("train", "features"),
}
READS = (
    *("data", "clip", "features", "pseudo_masks", "regions", "decoder", "train", "evaluate.checkpoint"),
    *("classes.seen", "classes.seen_ids", "classes.all"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `inspect`."""
    add_config_options(parser)
    add_device_option(parser)
    add_images_option(parser)
    add = parser.add_argument
    add("kind", choices=tuple(NEEDS), metavar="KIND", help=f"one of {', '.join(NEEDS)}")
    add("--image", metavar="ID", help="which image; without it, the gallery of all pseudo masks")
    add(
        "--out",
        type=parse_output_file,
        metavar="FILE",
        help="the PNG or HTML to write (default: artifacts/DATASET/inspect/)",
    )
    add(
        "--limit",
        type=whole_number(1),
        default=1000,
        metavar="N",
        help="largest number of images in the gallery, or to measure the quality on (default: 1000)",
    )


def run(options: argparse.Namespace) -> int:
    """Draw, and print the text and the path."""
    plan = load_plan(options)
    check_output_file(options.out, options, plan.config)
    lines = inspect(plan, options.kind, options.image, options.out, options.limit)
    print(*lines, sep="\n")
    return 0


def inspect(plan: Plan, kind: str, image_id: str | None, out: Path | None, limit: int) -> list[str]:
    """Draw one image, or the gallery of all, and return what to print.

    Args:
        plan: the plan of the config.
        kind: see NEEDS.
        image_id: which image; None for the gallery of all.
        out: the file to write; None for a place in the cache's folder.
        limit: largest number of images of a gallery, or to measure the quality on.

    Raises:
        ConfigError: there is no gallery of this kind.
        DataError: an artifact or the image is not there.
        CorruptError: an artifact is damaged.
    """
    if kind == "quality":
        if out is not None:
            raise ConfigError("inspect quality draws nothing: leave out --out")
        return _quality(plan, image_id, limit)
    if image_id is None and kind != "pseudo_masks":
        raise ConfigError(f"inspect {kind} needs --image ID: only pseudo_masks has a gallery")
    ending = ".html" if image_id is None else ".png"
    if out is not None and out.suffix.lower() != ending:
        what = "the gallery is a page" if image_id is None else "a look at one image is a picture"
        raise ConfigError(f"--out {out}: {what}; expected a name that ends in {ending}")
    ctx, states = _context(plan, kind)
    path = out or _place(plan, kind, image_id)
    if image_id is None:
        from split_matching.stages.pages.gallery import write_gallery

        display = ProgressDisplay(["gallery"], ["images"])
        display.start("gallery")
        lines = write_gallery(replace(ctx, progress=display.counter("gallery")), states, path, limit)
        display.end("gallery")
        return [*lines, str(path)]
    from split_matching.stages.pages.sheets.image_sheets import inspect_image

    return [*inspect_image(ctx, kind, image_id, states, path), "", str(path)]


def _quality(plan: Plan, image_id: str | None, limit: int) -> list[str]:
    """Measure clusters and region embeddings by the annotation of seen classes; there is no picture of it."""
    if image_id is not None:
        raise ConfigError("inspect quality takes no --image: it is a mean over training images, see --limit")
    ctx, _ = _context(plan, "quality")
    from split_matching.stages.candidates.quality import measure

    display = ProgressDisplay(["quality"], ["images"])
    display.start("quality")
    result = measure(replace(ctx, progress=display.counter("quality")), limit)
    display.end("quality")
    return result.lines(plan.config.regions.method)


def _context(plan: Plan, kind: str) -> tuple[StageContext, dict[str, str]]:
    """Return the artifacts of the config as a stage would see them, and their states."""
    inputs: dict[str, Artifact] = {}
    needs = NEEDS[kind]
    if not plan.config.features.persist and kind != "features":
        needs = tuple(name for name in needs if name != "features")  # computed when they are looked at
    runs_clip = kind in ("quality", "pseudo_masks") or not plan.config.features.persist
    if plan.config.clip.weights == "pretrain" and runs_clip:
        needs = (*needs, "pretrain")
    for name in (*needs, *MORE.get(kind, ())):
        if name not in plan.stages:
            continue
        try:
            inputs[name] = plan[name].artifact()
        except CorruptError:
            if plan[name].own_state.name == "corrupt":
                raise  # the artifact exists, and is damaged
            if name in needs:
                raise DataError(describe_missing(plan[name])) from None
    found = plan.states(list(inputs))
    # the inputs of the trained decoder are shown as the cache holds them, without augmentation
    train = plan.config.train.model_copy(update={"features": "cached"})
    config = build_slice(plan.config.model_copy(update={"train": train}), READS)
    ctx = StageContext(config, inputs, plan.root, plan.config.runtime, plan["dataset"].data_root)
    return ctx, {name: describe_state(found[name]) for name in inputs}


def _place(plan: Plan, kind: str, image_id: str | None) -> Path:
    """Return the default path of a picture: beside the artifacts, under a name without separators."""
    folder = plan.root / plan.config.dataset / "inspect"
    if image_id is None:
        return folder / f"{kind}.html"
    return folder / f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]', '_', image_id)}.png"
