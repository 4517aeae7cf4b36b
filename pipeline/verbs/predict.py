"""The verb `predict`: labels a user's own images with any class names, by a trained run."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.configs.class_files import FILE_ENDINGS, is_class_file
from split_matching.configs.class_list import ClassEntry, read_classes
from split_matching.configs.strict_yaml import shorten
from split_matching.configs.user_path import user_path
from split_matching.errors import ConfigError, DataError, one_line
from split_matching.pipeline.arguments import (
    add_config_options,
    add_device_option,
    add_images_option,
    add_log_option,
    config_arguments,
    load_plan,
    parse_output_folder,
)
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import ProgressDisplay, show
from split_matching.pipeline.run.run_log import keep_log
from split_matching.pipeline.trained_run import segmenter_of

if TYPE_CHECKING:
    from split_matching.stages.data.photos import Photo
    from split_matching.stages.inference.segmenter import Segmenter

HELP = "label your own images with any class names, by a trained run"
DESCRIPTION = """
Labels every pixel of an image, or of all images in a folder and below, with one of the given class names: any names,
whether they occurred in training or not. Writes for each image NAME.overlay.png with a legend, NAME.index.png (pixel
values are positions in the list of names) and NAME.areas.json. An image that is already labelled, by the same run with
the same names, is not labelled again; so after an interruption the same command continues where it stopped. Needs a
trained, fresh run of the config, or --decoder.
"""
EXIT_CODES = """0 all images are labelled, 2 wrong usage, names or config, 3 no trained run, no image, or some image
could not be read (the others are labelled)"""
EXAMPLES = (
    'predict --dataset voc --image photos/ --classes "dog, sofa, traffic cone" --out labelled/',
    "predict --decoder decoder.safetensors --image street.jpg --classes names.txt --out labelled/",
)
ENDINGS = ", ".join(FILE_ENDINGS)
WEIGHTS = "clip.weights="

_PATH = re.compile(r"[/~.].*|[^\s,]+\.[A-Za-z]\w{0,4}")
"""A text that is meant as a file's name."""

_NO_NAMES = re.compile(r"^[\[{(]|[;|\n]|^-+$|(^|,)\s*\d+\s*:")
"""Signs of other forms: lists of JSON, other separators, several lines, no word, numbers in front."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`."""
    add_config_options(parser)
    add_device_option(parser)
    add_images_option(parser)
    add_log_option(parser)
    add = parser.add_argument
    add(
        "--image",
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, folders of images, or patterns such as '*.jpg'",
    )
    add(
        "--classes",
        required=True,
        metavar="NAMES",
        help="names with commas between, or a class list: .txt, one a line, or .yaml",
    )
    add("--out", type=parse_output_folder, required=True, metavar="DIR", help="folder of the results; made if needed")
    add("--decoder", type=Path, metavar="FILE", help="an exported decoder, instead of the run of the config")
    add("--quiet", action="store_true", help="show no progress")


def run(options: argparse.Namespace) -> int:
    """Label the images, and print how many."""
    from split_matching.pipeline.run.work import set_up_cpu
    from split_matching.stages.data.photos import find_all_photos

    plan = load_plan(options)
    with keep_log(plan, options.verb, options.log_level):
        # both are looked at before torch and the weights are loaded, which takes long
        entries, photos = read_names(options.classes), find_all_photos(options.image, options.out)
        set_up_cpu(plan.config.runtime, alone=True)
        segmenter = _load_exported(plan, options) if options.decoder else segmenter_of(plan, config_arguments(options))
        lines, code = predict(segmenter, photos, entries, options.out, options.quiet)
        show(*lines)
    return code


def _load_exported(plan: Plan, options: argparse.Namespace) -> Segmenter:
    from split_matching.stages.inference.segmenter import Segmenter

    if options.set_file or any(not override.startswith(WEIGHTS) for override in options.set):
        raise ConfigError("--decoder brings its own settings: leave out all but --set clip.weights=PATH")
    weights = options.set[-1].removeprefix(WEIGHTS) if options.set else ""
    return Segmenter.load(options.decoder, weights, plan.config.runtime.device)


def predict(
    segmenter: Segmenter, photos: Sequence[Photo], entries: Sequence[ClassEntry], out: Path, quiet: bool = False
) -> tuple[list[str], int]:
    """Label images.

    Args:
        segmenter: the trained decoder.
        photos: see `find_all_photos`.
        entries: the names, see `read_names`.
        out: folder of the results.
        quiet: show no progress.

    Returns:
        What to print, and the exit code: 0, or 3 if some image could not be read.

    Raises:
        UserError: CLIP cannot tell names apart, or one is too long.
    """
    from split_matching.stages.pages.label_photos import label_photos

    names = segmenter.add_prompts(entries)
    display = ProgressDisplay(["predict"], ["images"], quiet=quiet)
    display.start("predict", len(photos))
    complaints: list[str] = []
    counts = label_photos(segmenter, photos, names, out, display.counter("predict"), complaints.append)
    display.end("predict")
    lines = [f"error: {complaint}" for complaint in complaints]
    lines += ["note: there is one class name alone, and every pixel has it"] if len(names) == 1 else []
    words = [f"{count} {word}" for word, count in counts.items() if count or word == "labelled"]
    code = DataError.exit_code if counts["failed"] else 0
    return [*lines, ", ".join(words).replace("kept", "kept from before"), one_line(str(out))], code


def read_names(text: str) -> list[ClassEntry]:
    """Return class names, with their prompts: those of a class list, or the text itself with commas between them.

    A text is a file if it ends as one, or if there is such a file: no path becomes a class by mistake.

    Raises:
        DataError: the file is missing.
        ConfigError: it is no class list, or a name is wrong.
    """
    path = user_path(text)
    if is_class_file(text):
        if not path.is_file():
            raise DataError(f"{text}: the class names cannot be read (no such file); expected one name a line")
        return list(read_classes(path, text))
    wrong = "" if not text.strip() else "a file or folder" if os.path.exists(path) else ""  # noqa: PTH110 - Path.exists raises for a long text
    wrong = wrong or ("no such file" if _PATH.fullmatch(text) else "")
    wrong = wrong or ("not understood" if _NO_NAMES.search(text) else "")
    if wrong:
        expected = f"names with commas between them, or a file that ends in {ENDINGS}"
        raise ConfigError(f"--classes {shorten(repr(text))}: {wrong}; expected {expected}")
    return [ClassEntry(place, name) for place, name in enumerate(text.split(","))]
