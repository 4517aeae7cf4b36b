"""Loading and checking CLIP weights: random ones, a local file, or a tag of open_clip, which is imported here alone.

Weights that do not fit, are damaged, or were trained with another activation give an error here, never a silently worse
model. How a file is read is in `weight_files`, where weights come from in `weights_identity`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor

from split_matching.configs.settings import ClipConfig
from split_matching.errors import ConfigError, DataError, did_you_mean, first_line
from split_matching.model.hub_files import can_reach_hub, is_cached
from split_matching.model.weight_files import WeightFile, read_weight_file
from split_matching.model.weights_identity import REPOSITORY, check_no_place, is_tag, weights_file, weights_identity

CONFIGS = REPOSITORY / "configs" / "clip"
SCALES = (1.0, 1000.0)
"""Logit scales outside of this come from no trained CLIP: OpenAI's end at 100, SigLIP's near 117 (choice)."""


def register_architectures() -> None:
    """Make the architectures of configs/clip/ known to open_clip, beside its own."""
    open_clip.add_model_config(CONFIGS)


def create_open_clip(clip: ClipConfig, weights: Path | None = None) -> Any:
    """Build an open_clip model.

    Args:
        clip: architecture and weights.
        weights: file to load instead of what `clip.weights` names (the PretrainClip artifact).

    Raises:
        ConfigError: unknown architecture or tag, or an activation that the weights were not trained with.
        DataError: weights missing, damaged, incomplete, or made for another architecture.
    """
    if weights is None:
        check_weights(clip)
    register_architectures()
    path = weights or weights_file(clip)
    if path is not None:
        return _load_file(clip, path)
    if clip.weights == "random":
        return _create_random(clip)
    try:
        model = _create(clip.model, clip.weights, _resolve_quick_gelu(clip))
    except Exception as error:
        what = f"CLIP weights {clip.model}/{clip.weights}"
        raise DataError(f"{what} could not be fetched ({first_line(error)}): {_how_to_get(clip)}") from error
    _check_values(model.state_dict(), f"{clip.model}/{clip.weights}")
    return model


def check_weights(clip: ClipConfig) -> None:
    """Reject an unknown architecture or tag, and weights that cannot be had, without loading anything.

    Raises:
        ConfigError: the architecture or the tag is unknown.
        DataError: the file is not on this machine, and cannot be downloaded.
    """
    register_architectures()
    check_no_place(clip.model)
    if clip.model not in open_clip.list_models():
        meant = did_you_mean(clip.model.replace("/", "-").replace("@", "-"), open_clip.list_models())
        raise ConfigError(
            f"clip.model {clip.model!r} is neither an open_clip architecture nor a file in configs/clip/: {meant} "
            "list them with python -c 'import open_clip; print(open_clip.list_models())'"
        )
    if clip.weights in ("random", "pretrain") or weights_file(clip) is not None:
        return _check_tokenizer(clip.model)
    tags = open_clip.list_pretrained_tags_by_model(clip.model)
    if clip.weights not in tags:
        raise ConfigError(
            f"clip.weights {clip.weights!r} is not a file, nor a pretrained tag of {clip.model}: "
            + ("give a path, or one of " + ", ".join(tags) if tags else "it has no tags, so give a path")
        )
    _check_available(clip)
    _check_tokenizer(clip.model)


def load_tokenizer(name: str) -> Any:
    """Return what turns texts into token ids, for an architecture.

    Raises:
        DataError: it is a file that is not on this machine (SigLIP).
    """
    _check_tokenizer(name)
    return open_clip.get_tokenizer(name)


# --- building ---------------------------------------------------------------------------------------------------------


def _create_random(clip: ClipConfig) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(clip.seed)
            return _create(clip.model, None, _resolve_quick_gelu(clip))
    except ConfigError:
        raise
    except Exception as error:  # e.g. a text tower whose config is on a hub only
        raise DataError(
            f"clip.model {clip.model} cannot be built on this machine ({first_line(error)}); choose another"
        ) from error


def _load_file(clip: ClipConfig, path: Path) -> Any:
    """Build the architecture and fill it from a local file that fits it, tensor by tensor."""
    file = read_weight_file(path)
    published = _find_published(path)
    if published is not None and published[0].removesuffix("-quickgelu") != clip.model.removesuffix("-quickgelu"):
        raise DataError(
            f"CLIP weights {path} are those of {published[0]}/{published[1]}, not of {clip.model}: "
            f"--set clip.model={published[0]}"
        )
    quick = _resolve_quick_gelu(clip, file, published)
    model = _create(clip.model, None, quick, _pixel_statistics(clip.model, published))
    state = convert_state_dict(model, dict(file.tensors))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # stored as a number by some, as a list of one by others
        if name in state and name in wanted and state[name].numel() == 1:
            state[name] = state[name].reshape(wanted[name].shape)
    _check_fits(state, wanted, path, clip.model)
    _check_values(state, str(path))
    model.load_state_dict(state)
    return model


def _create(name: str, pretrained: str | None, quick_gelu: bool, pixels: dict[str, Any] | None = None) -> Any:
    """Make a model; `pixels` are the mean and deviation to normalise by, if not the usual ones."""
    if pretrained is None and pixels is None:
        pixels = _pixel_statistics(name, None)
    with _silence_logs():
        model = open_clip.create_model(
            name,
            pretrained=pretrained,
            force_quick_gelu=quick_gelu,
            force_preprocess_cfg=pixels or None,
            pretrained_text=False,
        )
    return model.eval()


@contextlib.contextmanager
def _silence_logs() -> Iterator[None]:
    """Silence open_clip: it warns of random weights and of every retry; our banner and our error say it better."""
    loggers = [logging.getLogger(), logging.getLogger("huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- what a file must be ----------------------------------------------------------------------------------------------


def _check_fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Reject a file that lacks a tower, or whose tensors are not those of the architecture.

    Nothing is resized on the way: weights for another image size are another architecture.
    """
    start = f"CLIP weights {path} do not fit {name}"
    remedy = "give clip.model the architecture that they were saved from"
    for tower, has in (("image", lambda n: n.startswith("visual.")), ("text", lambda n: not n.startswith("visual."))):
        if not any(has(key) and key not in ("logit_scale", "logit_bias") for key in state):
            raise DataError(f"{start}: they hold no {tower} tower; give a file with both towers of one training")
    for key, tensor in wanted.items():
        if key not in state:
            raise DataError(f"{start}: {key} is missing; {remedy}")
        if state[key].shape != tensor.shape:
            sizes = [" x ".join(map(str, shape)) or "one number" for shape in (state[key].shape, tensor.shape)]
            raise DataError(f"{start}: {key} is {sizes[0]}, not {sizes[1]}; {remedy}")
    if stray := sorted(set(state) - set(wanted)):
        raise DataError(f"{start}: {stray[0]} is not of this architecture; {remedy}")


def _check_values(state: Mapping[str, Tensor], label: str) -> None:
    """Reject weights with a value that is not finite, or with a logit scale that no training ends at."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(
                f"CLIP weights {label} are damaged: {name} has values that are not finite; fetch them again"
            )
    scale = float(state["logit_scale"].float().exp().max())
    if not SCALES[0] <= scale <= SCALES[1]:
        raise DataError(
            f"CLIP weights {label} have a logit scale of {scale:.4g}, expected {SCALES[0]:g} to {SCALES[1]:g}: "
            "the towers were not trained together, or the file is damaged; give another"
        )


# --- what is known of published weights -------------------------------------------------------------------------------


def _resolve_quick_gelu(
    clip: ClipConfig, file: WeightFile | None = None, published: tuple[str, str] | None = None
) -> bool:
    """Whether the activation is QuickGELU; with another one than in training CLIP silently loses accuracy.

    Args:
        clip: `quick_gelu` is true, false or "auto".
        file: the local file that the weights come from, if it is one.
        published: architecture and tag of that file, if it is a published one.

    Raises:
        ConfigError: it is not known, or the config contradicts what is known.
    """
    own = _is_quick(open_clip.get_model_config(clip.model))
    wanted = None if clip.quick_gelu == "auto" else clip.quick_gelu
    known = _known_quick_gelu(clip, file, published)
    if known is None and (own or clip.weights in ("random", "pretrain", "bundled")):
        known = own if wanted is None else wanted  # the architecture alone says it
    for value, says in (
        (wanted, f"clip.quick_gelu={str(clip.quick_gelu).lower()}"),
        (own or None, f"clip.model={clip.model}"),
    ):
        if value is not None and known is not None and value != known:
            words = "with" if known else "without"
            raise ConfigError(f"{says} contradicts the weights, which were trained {words} QuickGELU: leave it at auto")
    if known is not None or wanted is not None:
        return bool(known if known is not None else wanted)
    tags = open_clip.list_pretrained_tags_by_model(clip.model)
    kinds = {_is_quick(open_clip.get_pretrained_cfg(clip.model, tag)) for tag in tags}
    if len(kinds) < 2:  # published with one activation only, or not at all
        return kinds.pop() if kinds else own
    raise ConfigError(
        f"CLIP weights {clip.weights} do not say which activation they were trained with, and {clip.model} is "
        "published with both: --set clip.quick_gelu=true for OpenAI's, MetaCLIP's and DFN's, false for LAION's and "
        "DataComp's"
    )


def _known_quick_gelu(clip: ClipConfig, file: WeightFile | None, published: tuple[str, str] | None) -> bool | None:
    """The activation that weights were trained with, where they say it: tags, published files, OpenAI's format."""
    tag = (clip.model, clip.weights) if is_tag(clip) and file is None else published
    if tag is not None:
        return _is_quick(open_clip.get_pretrained_cfg(*tag))
    return True if file is not None and file.openai else None


def _is_quick(settings: Mapping[str, Any] | None) -> bool:
    return bool((settings or {}).get("quick_gelu"))


def _find_published(path: Path) -> tuple[str, str] | None:
    """Architecture and tag of a file that was published under its digest, as OpenAI's were; None for any other."""
    digest = weights_identity(ClipConfig(weights=str(path.absolute()))).removeprefix("sha256:")
    for name, tag in open_clip.list_pretrained():
        url = str((open_clip.get_pretrained_cfg(name, tag) or {}).get("url") or "")
        if "openaipublic" in url and url.split("/")[-2] == digest:
            return name, tag
    return None


def _pixel_statistics(name: str, published: tuple[str, str] | None) -> dict[str, Any]:
    """Mean and deviation of the pixels: those of the tag, or those that all tags of an architecture share."""
    tags = [published[1]] if published else open_clip.list_pretrained_tags_by_model(name)
    found = [open_clip.get_pretrained_cfg(published[0] if published else name, tag) or {} for tag in tags]
    values = [{key: tuple(cfg[key]) for key in ("mean", "std") if key in cfg} for cfg in found]
    return values[0] if values and all(value == values[0] for value in values) else {}


# --- what is on this machine ------------------------------------------------------------------------------------------


def _check_available(clip: ClipConfig) -> None:
    """Reject a pretrained tag that is not in the local cache and cannot be downloaded, before a minute of retries.

    Raises:
        DataError: names the file and how to get it.
    """
    repository, names = _hub_files(clip)
    if not repository or is_cached(repository, names) or can_reach_hub():
        return
    raise DataError(
        f"CLIP weights {names[0]} of {clip.model}/{clip.weights} are not on this machine, and the network is not "
        f"reachable: {_how_to_get(clip)}"
    )


def _hub_files(clip: ClipConfig) -> tuple[str, list[str]]:
    """Hugging Face repository of a tag, "" if it has none, and the file names that open_clip looks for."""
    cfg = open_clip.get_pretrained_cfg(clip.model, clip.weights) or {}
    repository, _, name = str(cfg.get("hf_hub") or "").rpartition("/")
    return repository, [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _how_to_get(clip: ClipConfig) -> str:
    """Which file a pretrained tag needs and how it is used offline, with the activation that it was trained with."""
    cfg = open_clip.get_pretrained_cfg(clip.model, clip.weights) or {}
    repository, names = _hub_files(clip)
    source = f"{names[0]} from the Hugging Face repository {repository}" if repository else str(cfg.get("url"))
    quick = "true" if cfg.get("quick_gelu") else "false"
    return (
        f"download {source} on a connected machine, put it into any folder here, and pass "
        f"--set clip.weights=PATH clip.quick_gelu={quick}"
    )


def _check_tokenizer(name: str) -> None:
    """Reject an architecture whose tokenizer is a file, as SigLIP's, that is not here and cannot be downloaded.

    Raises:
        DataError: names what is missing and how to get it.
    """
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    repository = str(text.get("hf_tokenizer_name") or "")
    if not repository:
        return
    if importlib.util.find_spec("transformers") is None:
        raise DataError(f"the tokenizer of {name} needs two more packages: pip install transformers sentencepiece")
    if not is_cached(repository, ["tokenizer.json", "tokenizer_config.json", "spiece.model"]) and not can_reach_hub():
        folder = f"models--{repository.replace('/', '--')}"
        raise DataError(
            f"the tokenizer of {name} is not on this machine, and the network is not reachable: on a connected machine "
            f"run `hf download {repository}`, and copy the folder {folder} to {HF_HUB_CACHE}"
        )
