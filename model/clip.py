"""The frozen CLIP: image and text embeddings, dense features, token maps and region embeddings.

The only file that imports open_clip. How an image becomes tokens and tokens become embeddings is in `model.towers`; the
image embedding at the native size equals open_clip's `encode_image` (tested to 1e-5).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
from numpy.typing import NDArray
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from PIL import Image
from torch import Tensor, nn

from split_matching.configs.schema import ClipConfig
from split_matching.errors import ConfigError, DataError
from split_matching.model.towers import Tower, open_tower
from split_matching.model.weight_files import Checkpoint, read_checkpoint
from split_matching.model.weights_identity import REPOSITORY, is_tag, weights_file, weights_identity

P = ParamSpec("P")
R = TypeVar("R")

CONFIGS = REPOSITORY / "configs" / "clip"
SCALES = (1.0, 1000.0)
"""Logit scales outside of this come from no trained CLIP: OpenAI's end at 100, SigLIP's near 117 (choice)."""


@dataclass(frozen=True)
class DenseOutput:
    """What one forward pass of the visual tower gives.

    Args:
        cls: image embedding in CLIP space, not normalised. Shape: (B, D).
        dense: dense features in CLIP space, L2-normalised. Shape: (B, h, w, D).
        tokens: output tokens of the asked-for blocks. Shapes: (B, h, w, width).
        prefixes: the tokens before those of the patches, of the same blocks: CLS, or none. Shapes: (B, p, width).
    """

    cls: Tensor
    dense: Tensor
    tokens: dict[int, Tensor]
    prefixes: dict[int, Tensor]


def register_models() -> None:
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
    register_models()
    path = weights or weights_file(clip)
    if path is not None:
        return _from_file(clip, path)
    if clip.weights == "random":
        return _random(clip)
    try:
        model = _create(clip.model, clip.weights, _wants_quick(clip))
    except Exception as error:
        first = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise DataError(
            f"CLIP weights {clip.model}/{clip.weights} could not be fetched ({first}): {_remedy(clip)}"
        ) from error
    _check_values(model.state_dict(), f"{clip.model}/{clip.weights}")
    return model


def _random(clip: ClipConfig) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(clip.seed)
            return _create(clip.model, None, _wants_quick(clip))
    except ConfigError:
        raise
    except Exception as error:  # e.g. a text tower whose config is on a hub only
        first = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise DataError(f"clip.model {clip.model} cannot be built on this machine ({first}); choose another") from error


def _from_file(clip: ClipConfig, path: Path) -> Any:
    """Build the architecture and fill it from a local file that fits it, tensor by tensor."""
    checkpoint = read_checkpoint(path)
    published = _published(path)
    if published is not None and published[0].removesuffix("-quickgelu") != clip.model.removesuffix("-quickgelu"):
        raise DataError(
            f"CLIP weights {path} are those of {published[0]}/{published[1]}, not of {clip.model}: "
            f"--set clip.model={published[0]}"
        )
    quick = _wants_quick(clip, checkpoint, published, path)
    model = _create(clip.model, None, quick, _preprocessing(clip.model, published))
    state = convert_state_dict(model, dict(checkpoint.tensors))
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


def _check_fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Refuse a file that lacks a tower, or whose tensors are not those of the architecture.

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
    """Refuse weights with a value that is not finite, or with a logit scale that no training ends at."""
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


def _wants_quick(
    clip: ClipConfig,
    checkpoint: Checkpoint | None = None,
    published: tuple[str, str] | None = None,
    path: Path | None = None,
) -> bool:
    """Whether the activation is QuickGELU; with another one than in training CLIP silently loses accuracy.

    Known are tags, files that are published ones byte for byte, and OpenAI's format. An architecture that is published
    with one activation only, or is not published at all, has the one of its config. Otherwise the config must say it.

    Raises:
        ConfigError: it is not known, or the config contradicts what is known.
    """
    own = bool((open_clip.get_model_config(clip.model) or {}).get("quick_gelu"))
    asked = None if clip.quick_gelu == "auto" else clip.quick_gelu
    tag = (clip.model, clip.weights) if is_tag(clip) and path is None else published
    known: bool | None = None
    if tag is not None:
        known = bool((open_clip.get_pretrained_cfg(*tag) or {}).get("quick_gelu"))
    elif checkpoint is not None and checkpoint.openai:
        known = True
    elif clip.weights in ("random", "pretrain", "bundled") or own:
        known = asked if asked is not None else own
    for value, says in (
        (asked, f"clip.quick_gelu={str(clip.quick_gelu).lower()}"),
        (own or None, f"clip.model={clip.model}"),
    ):
        if value is not None and known is not None and value != known:
            words = "with" if known else "without"
            raise ConfigError(f"{says} contradicts the weights, which were trained {words} QuickGELU: leave it at auto")
    if known is not None or asked is not None:
        return bool(known if known is not None else asked)
    kinds = {
        bool((open_clip.get_pretrained_cfg(clip.model, name) or {}).get("quick_gelu"))
        for name in open_clip.list_pretrained_tags_by_model(clip.model)
    }
    if len(kinds) < 2:
        return kinds.pop() if kinds else own
    raise ConfigError(
        f"CLIP weights {path} do not say which activation they were trained with, and {clip.model} is published with "
        "both: --set clip.quick_gelu=true for OpenAI's, MetaCLIP's and DFN's, false for LAION's and DataComp's"
    )


def _published(path: Path) -> tuple[str, str] | None:
    """Architecture and tag of a file that was published under its digest, as OpenAI's were; None for any other."""
    digest = weights_identity(ClipConfig(weights=str(path.absolute()))).removeprefix("sha256:")
    for name, tag in open_clip.list_pretrained():
        url = str((open_clip.get_pretrained_cfg(name, tag) or {}).get("url") or "")
        if "openaipublic" in url and url.split("/")[-2] == digest:
            return name, tag
    return None


def _preprocessing(name: str, published: tuple[str, str] | None) -> dict[str, Any]:
    """Mean and deviation of the pixels: those of the tag, or those that all tags of an architecture share."""
    tags = [published[1]] if published else open_clip.list_pretrained_tags_by_model(name)
    found = [open_clip.get_pretrained_cfg(published[0] if published else name, tag) or {} for tag in tags]
    values = [{key: tuple(cfg[key]) for key in ("mean", "std") if key in cfg} for cfg in found]
    return values[0] if values and all(value == values[0] for value in values) else {}


def check_weights(clip: ClipConfig) -> None:
    """Refuse an unknown architecture or tag, and weights that are not to be had, without loading anything.

    Raises:
        ConfigError: the architecture or the tag is unknown.
        DataError: the file is neither on this machine nor to be fetched.
    """
    register_models()
    if clip.model not in open_clip.list_models():
        raise ConfigError(
            f"clip.model {clip.model!r} is neither an open_clip architecture nor a file in configs/clip/: "
            "list them with python -c 'import open_clip; print(open_clip.list_models())'"
        )
    if clip.weights in ("random", "pretrain") or weights_file(clip) is not None:
        return _check_tokenizer(clip.model)
    tags = open_clip.list_pretrained_tags_by_model(clip.model)
    if clip.weights not in tags:
        raise ConfigError(
            f"clip.weights {clip.weights!r} is not a file, nor a pretrained tag of {clip.model}: "
            f"give a path, or one of {', '.join(tags) or 'no tags'}"
        )
    _check_available(clip)
    _check_tokenizer(clip.model)


def _create(name: str, pretrained: str | None, quick_gelu: bool, pixels: dict[str, Any] | None = None) -> Any:
    """Make a model; `pixels` are the mean and deviation to normalise by, if not the usual ones."""
    if pretrained is None and pixels is None:
        pixels = _preprocessing(name, None)
    with _quiet():
        model = open_clip.create_model(
            name,
            pretrained=pretrained,
            force_quick_gelu=quick_gelu,
            force_preprocess_cfg=pixels or None,
            pretrained_text=False,
        )
    return model.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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


def _check_available(clip: ClipConfig) -> None:
    """Refuse a pretrained tag that is neither in the local cache nor to be fetched, before a minute of retries.

    Raises:
        DataError: names the file and how to get it.
    """
    repository, names = _hub_files(clip)
    if not repository or _cached(repository, names) or _hub_answers():
        return
    raise DataError(
        f"CLIP weights {names[0]} of {clip.model}/{clip.weights} are not on this machine, and the network is not "
        f"reachable: {_remedy(clip)}"
    )


def _check_tokenizer(name: str) -> None:
    """Refuse an architecture whose tokenizer is a file that is neither here nor to be fetched, as SigLIP's.

    Raises:
        DataError: names what is missing and how to get it.
    """
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    repository = str(text.get("hf_tokenizer_name") or "")
    if not repository:
        return
    if importlib.util.find_spec("transformers") is None:
        raise DataError(f"the tokenizer of {name} needs two more packages: pip install transformers sentencepiece")
    if not _cached(repository, ["tokenizer.json", "tokenizer_config.json", "spiece.model"]) and not _hub_answers():
        folder = f"models--{repository.replace('/', '--')}"
        raise DataError(
            f"the tokenizer of {name} is not on this machine, and the network is not reachable: on a connected machine "
            f"run `hf download {repository}`, and copy the folder {folder} to {HF_HUB_CACHE}"
        )


def _cached(repository: str, names: Sequence[str]) -> bool:
    """Whether one of some files of a Hugging Face repository is in the local cache."""
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _hub_answers() -> bool:
    """Whether the hub is reachable, as far as five seconds can tell."""
    if getproxies():  # a proxy resolves names for us
        return True
    endpoint = urlsplit(ENDPOINT)
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def _hub_files(clip: ClipConfig) -> tuple[str, list[str]]:
    """Hugging Face repository of a tag, "" if it has none, and the file names that open_clip looks for."""
    cfg = open_clip.get_pretrained_cfg(clip.model, clip.weights) or {}
    repository, _, name = str(cfg.get("hf_hub") or "").rpartition("/")
    return repository, [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _remedy(clip: ClipConfig) -> str:
    """Which file a pretrained tag needs and how it is used offline, with the activation that it was trained with."""
    cfg = open_clip.get_pretrained_cfg(clip.model, clip.weights) or {}
    repository, names = _hub_files(clip)
    source = f"{names[0]} from the Hugging Face repository {repository}" if repository else str(cfg.get("url"))
    quick = "true" if cfg.get("quick_gelu") else "false"
    return (
        f"download {source} on a connected machine, put it into any folder here, and pass "
        f"--set clip.weights=PATH clip.quick_gelu={quick}"
    )


def _tower_pass(method: Callable[Concatenate[FrozenClip, P], R]) -> Callable[Concatenate[FrozenClip, P], R]:
    """Run a method without gradients, with the image tower's products in `clip.precision`."""

    @wraps(method)
    def run(self: FrozenClip, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(), self.in_precision():
            return method(self, *args, **kwargs)

    return run


class FrozenClip(nn.Module):
    """A CLIP whose weights never change, in evaluation mode, in float32.

    Args:
        clip: architecture and weights.
        device: where to run.
        weights: file to load instead of what `clip.weights` names.

    Raises:
        ConfigError: the architecture is unknown or its visual tower is of no supported kind, see `model.towers`.
        DataError: weights missing or unfit, see `create_open_clip`.
    """

    def __init__(self, clip: ClipConfig, device: str = "cpu", weights: Path | None = None) -> None:
        super().__init__()
        # open_clip's towers are duck-typed: their attributes are checked in `model.towers`, not by the type checker
        self.model: Any = create_open_clip(clip, weights).float().requires_grad_(False)
        self.name, self.precision = clip.model, clip.precision
        self.visual: Any = self.model.visual
        self.quick_gelu = any(type(module).__name__ == "QuickGELU" for module in self.model.modules())
        self.tower: Tower = open_tower(self.visual, clip.model)
        self.patch, self.native, self.width = self.tower.patch, self.tower.native, self.tower.width
        self.depth, self.dim = self.tower.depth, self.tower.dim
        self.mean: tuple[float, ...] = tuple(self.visual.preprocess_cfg["mean"])
        self.std: tuple[float, ...] = tuple(self.visual.preprocess_cfg["std"])
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.logit_scale.device

    def in_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which the image tower's products have `clip.precision`."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @cached_property
    def tokenizer(self) -> Any:
        """Turns texts into token ids.

        Raises:
            DataError: it is a file that is not on this machine (SigLIP).
        """
        _check_tokenizer(self.name)
        return open_clip.get_tokenizer(self.name)

    def fingerprint(self) -> str:
        """Digest of all weights as float32: equal for equal weights, whatever file they came from. 64 hex digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    # -- images ---------------------------------------------------------------------------------------------------

    def grid_for(self, height: int, width: int, size: int, resize: str) -> tuple[int, int]:
        """Token grid of an image: the named side becomes `size` pixels, both sides are rounded to whole patches.

        Rounding bends the aspect ratio by at most half a patch; nothing is padded or cropped. Source: choice.
        """
        side = min(height, width) if resize == "short" else max(height, width)
        scale = size / side
        return tuple(max(1, round(edge * scale / self.patch)) for edge in (height, width))  # type: ignore[return-value]

    def preprocess(self, image: NDArray[np.uint8], height: int, width: int) -> Tensor:
        """Resize (bicubic, as CLIP does) and normalise an RGB image.

        Args:
            image: Shape: (H, W, 3), uint8.
            height: target height in pixels.
            width: target width in pixels.

        Returns:
            Shape: (3, height, width), float32, on the CPU.
        """
        if image.shape[:2] != (height, width):
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    @_tower_pass
    def encode_image(self, images: Tensor) -> Tensor:
        """Image embedding of preprocessed images of any size. (B, 3, H, W) -> (B, D), not normalised."""
        x, _ = self.tower.embed(images.to(self.device))
        for index in range(self.depth):
            x = self.tower.block(index, x)
        return self.tower.pool(x).float()

    @_tower_pass
    def dense(self, images: Tensor, variant: str = "value", decoder_blocks: Sequence[int] = ()) -> DenseOutput:
        """Image embedding, dense features and token maps from one forward pass.

        Args:
            images: preprocessed, sides multiples of the patch. Shape: (B, 3, H, W).
            variant: `value`, `qq`, `kk` or `last`, see FeaturesConfig.
            decoder_blocks: blocks whose output tokens to return, counted from 1.

        Returns:
            Everything in float32 on `self.device`.

        Raises:
            ConfigError: the tower has no such variant.

        Source: paper (cluster dense CLIP features); variants are choices, see `model.towers`.
        """
        x, grid = self.tower.embed(images.to(self.device))
        first = self.tower.prefix
        tokens: dict[int, Tensor] = {}
        prefixes: dict[int, Tensor] = {}
        before = x
        for index in range(self.depth):
            before = x
            x = self.tower.block(index, x)
            if index + 1 in decoder_blocks:
                tokens[index + 1], prefixes[index + 1] = x[:, first:].unflatten(1, grid), x[:, :first]
        flat = self.tower.dense(before, x, variant)
        dense = F.normalize(flat.float().unflatten(1, grid), dim=-1)
        return DenseOutput(self.tower.pool(x).float(), dense, tokens, prefixes)

    @_tower_pass
    def tokens(self, images: Tensor, block: int) -> Tensor:
        """Output tokens of one block, counted from 1; later blocks are not run. (B, 3, H, W) -> (B, h, w, width)."""
        x, grid = self.tower.embed(images.to(self.device))
        for index in range(block):
            x = self.tower.block(index, x)
        return x[:, self.tower.prefix :].unflatten(1, grid)

    @_tower_pass
    def encode_regions(self, images: Tensor, regions: Sequence[Tensor], blocks: int) -> list[Tensor]:
        """Embedding of each region by masked attention: one image forward, then a look at each region alone.

        The patches go on as in the plain forward pass; what looks at them, and from which block on, is the tower's
        (see `Tower.regions`).

        Args:
            images: Shape: (B, 3, H, W).
            regions: for each image which tokens belong to each region, non-empty. Shapes: (R_i, h*w), bool.
            blocks: how many last blocks are masked.

        Returns:
            Embeddings, not normalised. Shapes: (R_i, D).

        Raises:
            ConfigError: the tower has fewer blocks.

        Source: choice.
        """
        plain = self.tower.plain_blocks(blocks)
        if not any(len(region) for region in regions):
            return [torch.zeros(0, self.dim, device=self.device) for _ in regions]
        x, _ = self.tower.embed(images.to(self.device))
        for index in range(plain):
            x = self.tower.block(index, x)
        return self.encode_regions_of(x, regions, blocks)

    @_tower_pass
    def encode_regions_of(self, tokens: Tensor, regions: Sequence[Tensor], blocks: int) -> list[Tensor]:
        """As `encode_regions`, from the tokens after the plain blocks (`tower.plain_blocks`), such as cached ones.

        Args:
            tokens: Shape: (B, prefix + h*w, width).
            regions: Shapes: (R_i, h*w), bool.
            blocks: how many last blocks are masked.
        """
        x = tokens.to(self.device)
        count = max((len(region) for region in regions), default=0)
        allowed = torch.zeros(len(x), count, x.shape[1] - self.tower.prefix, dtype=torch.bool, device=x.device)
        for index, region in enumerate(regions):
            allowed[index, : len(region)] = region.to(x.device)
            allowed[index, len(region) :] = True  # rows of no region: anything but empty
        if count == 0:
            return [x.new_zeros(0, self.dim) for _ in regions]
        embedded = self.tower.regions(x, allowed, blocks).float()
        return [embedded[index, : len(region)] for index, region in enumerate(regions)]

    # -- text -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_classes(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Text embedding of each class: normalised per prompt, averaged over templates, normalised again.

        Args:
            names: class names.
            templates: each with one `{}`.

        Returns:
            Shape: (len(names), D), float32, unit length, on the CPU.
        """
        prompts = [template.replace("{}", name) for name in names for template in templates]
        embedded = [
            self.model.encode_text(self.tokenizer(prompts[i : i + 256]).to(self.device)).float()
            for i in range(0, len(prompts), 256)
        ]
        mean = F.normalize(torch.cat(embedded), dim=-1).unflatten(0, (len(names), len(templates))).mean(1)
        return F.normalize(mean, dim=-1).cpu()
