"""A trained run in use: the verbs `predict` and `export`, and the same from Python.

from split_matching.pipeline.verbs.predict import load_segmenter
segmenter = load_segmenter("shapes")
prediction = segmenter.predict("street.jpg", ["car", "traffic cone", "road"])
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.configs.class_list import classes_of
from split_matching.configs.load import load_config
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.text import describe_state

if TYPE_CHECKING:
    from split_matching.stages.inference.segmenter import Segmenter

NAMES_ENDING = ".txt"


def load_segmenter(dataset: str, overrides: Sequence[str] = (), set_files: Sequence[Path] = ()) -> Segmenter:
    """Return the trained decoder of a config, ready to label images.

    Args:
        dataset: name of a file in `configs/`, or the path of a config.
        overrides: `section.key=value`, as after `--set`.
        set_files: as after `--set-file`.

    Raises:
        UserError: the config is wrong, or its decoder is not trained or not fresh; the message says what to run.
    """
    given = ["--dataset", dataset]
    given += ["--set-file", *map(str, set_files)] if set_files else []
    given += ["--set", *overrides] if overrides else []
    return segmenter_of(Plan(load_config(dataset, set_files, overrides)), given)


def segmenter_of(plan: Plan, arguments: Sequence[str]) -> Segmenter:
    """Return the trained decoder of a plan.

    Args:
        plan: the plan of the config.
        arguments: how the config was given on the command line, for the command that a message names.

    Raises:
        ConfigError: the config asks for a baseline without a decoder.
        DataError: the decoder is not there or not fresh.
    """
    config = plan.config
    if config.evaluate.predictor != "decoder":
        raise ConfigError(
            f"evaluate.predictor {config.evaluate.predictor} is a baseline without a decoder: leave it at decoder"
        )
    state = plan.state("train")
    if not state.fresh:
        raise DataError(
            f"the decoder of {config.dataset} in {plan.store.root} is {describe_state(state)}: run "
            f"`python run_pipeline.py TrainDecoder {shlex.join(arguments)}`"
        )
    from safetensors.torch import load_file

    from split_matching.model.clip import FrozenClip
    from split_matching.stages.ground.device import resolve_device
    from split_matching.stages.inference.segmenter import Segmenter

    trained = plan.artifact("pretrain").file("clip.safetensors") if config.clip.weights == "pretrain" else None
    clip = FrozenClip(config.clip, resolve_device(config.runtime.device), trained)
    seen = classes_of(config.data).seen(config.data.fold, config.data.folds)
    artifact = plan.artifact("train")
    weights = load_file(artifact.file("weights.safetensors"))
    return Segmenter(
        config, clip, weights, [entry.name for entry in seen], f"{config.dataset}/train/{artifact.key[:16]}"
    )


def read_names(text: str) -> list[str]:
    """Return class names: those of a .txt file, one a line, or the text itself with commas between them.

    Raises:
        DataError: the file cannot be read.
    """
    if not text.endswith(NAMES_ENDING):
        return text.split(",")
    try:
        lines = Path(text).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text}: the class names cannot be read ({error}); expected one name a line") from None
    return [line for line in lines if line.strip()]


def predict(segmenter: Segmenter, image: Path, classes: str, out: Path, quiet: bool = False) -> tuple[list[str], int]:
    """Label an image, or all images of a folder.

    Args:
        segmenter: the trained decoder.
        image: a file or folder.
        classes: see `read_names`.
        out: folder of the results.
        quiet: show no progress.

    Returns:
        What to print, and the exit code: 0, or 3 if some image could not be read.

    Raises:
        UserError: the names are wrong, or there is no image.
    """
    from split_matching.stages.data.photos import find_photos, shown
    from split_matching.stages.inference.segmenter import check_names
    from split_matching.stages.pages.label_photos import label_photos

    names = check_names(read_names(classes))
    photos = find_photos(image, out)
    board = ProgressDisplay(["predict"], ["images"], quiet=quiet)
    board.start("predict", len(photos))
    complaints: list[str] = []
    counts = label_photos(segmenter, photos, names, out, board.counter("predict"), complaints.append)
    board.end("predict")
    lines = [f"error: {complaint}" for complaint in complaints]
    words = [f"{count} {word}" for word, count in counts.items() if count or word == "labelled"]
    return [*lines, ", ".join(words).replace("kept", "kept from before"), shown(out)], 3 if counts["failed"] else 0
