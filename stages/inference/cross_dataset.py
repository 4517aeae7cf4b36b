"""Evaluation of a decoder that was trained on another data set: which classes it has seen, and whether it fits.

Source: the practice of ZegCLIP's successors, which evaluate on VOC and PASCAL Context what was trained on COCO-Stuff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.class_list import ClassEntry
from split_matching.configs.class_names import same_classes
from split_matching.configs.settings import DecoderConfig
from split_matching.errors import DataError, first_line
from split_matching.model.clip import FrozenClip
from split_matching.stages.inference.exported_decoder import read_export


def seen_elsewhere(about: Mapping[str, Any], entries: Sequence[ClassEntry]) -> NDArray[np.bool_]:
    """Return which classes had masks in the training of an exported decoder: those of the same name, word or prompt.

    Args:
        about: what the export says of itself.
        entries: the classes of this data set.

    Returns:
        Shape: (C,), bool.
    """
    prompts = about.get("prompts") or {}
    known = [text for name in about["seen"] for text in (name, *prompts.get(name, ()))]
    return np.array(same_classes([(entry.name, *entry.prompts) for entry in entries], known))


def load_foreign(config: Any, clip: FrozenClip) -> dict[str, Tensor]:
    """Return the weights of `evaluate.trained_on`.

    Args:
        config: reads `evaluate`, `decoder`, `features.decoder_blocks` and `train.matching`.
        clip: the frozen CLIP of this run.

    Raises:
        DataError: the decoder was trained on other CLIP weights, or with other settings than those of the config.
    """
    path = Path(config.evaluate.trained_on)
    about, weights = read_export(path)
    if about["clip"]["fingerprint"] != clip.fingerprint():
        raise DataError(f"{path} was trained on other CLIP weights than clip.weights: give the same ones")
    theirs = about["config"]
    try:
        decoder = DecoderConfig.model_validate(theirs["decoder"])  # settings added since the export get their defaults
    except ValueError as error:
        raise DataError(f"{path}: its decoder settings are not known ({first_line(error)}); export it again") from None
    same = (
        decoder == config.decoder
        and tuple(theirs["features"]["decoder_blocks"]) == tuple(config.features.decoder_blocks)
        and theirs["train"]["matching"] == config.train.matching
    )
    if not same:
        raise DataError(f"{path} was trained with another decoder than that of the config: use --trained-on {path}")
    return weights
