"""A trained run, ready to label images: from Python as from the verbs `predict` and `export`.

from split_matching.pipeline.trained_run import load_segmenter
segmenter = load_segmenter("shapes")
prediction = segmenter.predict("street.jpg", ["car", "traffic cone", "road"])
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.configs.class_list import load_classes, prompts_of
from split_matching.configs.load import load_config
from split_matching.environment import command
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.text import describe_state

if TYPE_CHECKING:
    from split_matching.stages.inference.segmenter import Segmenter


def load_segmenter(dataset: str, overrides: Sequence[str] = (), set_files: Sequence[Path] = ()) -> Segmenter:
    """Return the trained decoder of a config, ready to label images.

    Args:
        dataset: name of a file in `configs/`, or the path of a config.
        overrides: `section.key=value`, as after `--set`.
        set_files: as after `--set-file`.

    Raises:
        UserError: the config is wrong, or its decoder is not trained or not fresh; the message says what to run.
    """
    words = ["--dataset", dataset]
    words += ["--set-file", *map(str, set_files)] if set_files else []
    words += ["--set", *overrides] if overrides else []
    return segmenter_of(make_plan(load_config(dataset, set_files, overrides)), words)


def segmenter_of(plan: Plan, arguments: Sequence[str]) -> Segmenter:
    """Return the trained decoder of a plan.

    Args:
        plan: the plan of the config.
        arguments: the words of the command line that choose the config, for the command that a message names.

    Raises:
        ConfigError: the config asks for a baseline without a decoder.
        DataError: the decoder is missing or not fresh.
    """
    config = plan.config
    if config.evaluate.predictor != "decoder":
        raise ConfigError(
            f"evaluate.predictor {config.evaluate.predictor} is a baseline without a decoder: leave it at decoder"
        )
    state = plan["train"].state
    if not state.fresh:
        raise DataError(
            f"the decoder of {config.dataset} in {plan.root} is {describe_state(state)}: run "
            f"`{command()} TrainDecoder {shlex.join(arguments)}`"
        )
    from safetensors.torch import load_file

    from split_matching.model.clip import FrozenClip
    from split_matching.stages.ground.device import resolve_device
    from split_matching.stages.inference.segmenter import Segmenter

    trained = plan["pretrain"].artifact().file("clip.safetensors") if config.clip.weights == "pretrain" else None
    clip = FrozenClip(config.clip, resolve_device(config.runtime.device), trained)
    classes = load_classes(config.data)
    seen = classes.seen(config.data.fold, config.data.folds)
    artifact = plan["train"].artifact()
    weights = load_file(artifact.file("weights.safetensors"))
    run = f"{config.dataset}/train/{artifact.key[:16]}"
    prompts = prompts_of(classes.entries, config.text)
    return Segmenter(config, clip, weights, [entry.name for entry in seen], run, prompts)
