"""The frozen CLIP: image and text embeddings, dense features, token maps and region embeddings.

The only file that imports open_clip. The visual tower's blocks are called one by one, because dense features replace
the attention of the last block; the CLS output at the native size equals open_clip's `encode_image` (tested to 1e-5).

Sources: dense `value` features after MaskCLIP, `qq` and `kk` after ClearCLIP and NACLIP; masked CLS attention is a
choice.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from configs.errors import ConfigError, DataError
from configs.schema import ClipConfig
from model.weights import REPOSITORY, weights_file

CONFIGS = REPOSITORY / "configs" / "clip"


@dataclass(frozen=True)
class DenseOutput:
    """What one forward pass of the visual tower gives.

    Args:
        cls: image embedding in CLIP space, not normalised. Shape: (B, D).
        dense: dense features in CLIP space, L2-normalised. Shape: (B, h, w, D).
        tokens: output tokens of the asked-for blocks. Shapes: (B, h, w, width).
    """

    cls: Tensor
    dense: Tensor
    tokens: dict[int, Tensor]


def register_models() -> None:
    """Make the architectures of configs/clip/ known to open_clip, beside its own."""
    open_clip.add_model_config(CONFIGS)


def create_open_clip(clip: ClipConfig, weights: Path | None = None) -> Any:
    """Build an open_clip model.

    Args:
        clip: architecture and weights.
        weights: file to load instead of what `clip.weights` names (the PretrainClip artifact).

    Raises:
        ConfigError: unknown architecture or tag.
        DataError: weights missing, or made for another architecture.
    """
    if weights is None:
        check_weights(clip)
        if clip.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(clip.seed)
                return _create(clip.model, None)
    register_models()
    source: Path | str = weights or weights_file(clip) or clip.weights
    tag = {} if isinstance(source, Path) else open_clip.get_pretrained_cfg(clip.model, source) or {}
    try:
        # OpenAI's weights were trained with QuickGELU; with another activation they silently lose accuracy
        return _create(clip.model, str(source), bool(tag.get("quick_gelu")))
    except Exception as error:
        first = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        if isinstance(source, Path):
            raise DataError(
                f"CLIP weights {source} cannot be loaded into {clip.model} ({first}): "
                "give a readable weights file that was saved from this architecture"
            ) from error
        raise DataError(
            f"CLIP weights {clip.model}/{source} could not be fetched ({first}): {_remedy(clip)}"
        ) from error


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
        return
    tags = open_clip.list_pretrained_tags_by_model(clip.model)
    if clip.weights not in tags:
        raise ConfigError(
            f"clip.weights {clip.weights!r} is not a file, nor a pretrained tag of {clip.model}: "
            f"give a path, or one of {', '.join(tags) or 'no tags'}"
        )
    _check_available(clip)


def _create(name: str, pretrained: str | None, quick_gelu: bool = False) -> Any:
    loggers = [logging.getLogger(), logging.getLogger("huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:  # they warn of random weights and of every retry; our banner and our error say it better
        logger.setLevel(logging.CRITICAL)
    try:
        model = open_clip.create_model(name, pretrained=pretrained, force_quick_gelu=quick_gelu)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return model.eval()


def _check_available(clip: ClipConfig) -> None:
    """Refuse a pretrained tag that is neither in the local cache nor to be fetched, before a minute of retries.

    Raises:
        DataError: names the file and how to get it.
    """
    repository, names = _hub_files(clip)
    endpoint = urlsplit(ENDPOINT)
    hidden = bool(getproxies())  # a proxy resolves names for us
    if not repository or hidden or any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        return
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname or "", port), timeout=5).close()
    except OSError:
        raise DataError(
            f"CLIP weights {names[0]} of {clip.model}/{clip.weights} are not on this machine, and the network is not "
            f"reachable: {_remedy(clip)}"
        ) from None


def _hub_files(clip: ClipConfig) -> tuple[str, list[str]]:
    """Hugging Face repository of a tag, "" if it has none, and the file names that open_clip looks for."""
    cfg = open_clip.get_pretrained_cfg(clip.model, clip.weights) or {}
    repository, _, name = str(cfg.get("hf_hub") or "").rpartition("/")
    return repository, [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _remedy(clip: ClipConfig) -> str:
    """How to use a pretrained tag's file offline; the architecture must keep the activation it was trained with."""
    cfg = open_clip.get_pretrained_cfg(clip.model, clip.weights) or {}
    repository, names = _hub_files(clip)
    source = f"{names[0]} from the Hugging Face repository {repository}" if repository else str(cfg.get("url"))
    quick = cfg.get("quick_gelu") and not clip.model.endswith("-quickgelu")
    model = f"clip.model={clip.model}-quickgelu " if quick else ""
    return f"download {source} on a connected machine, then pass --set {model}clip.weights=PATH"


class FrozenClip(nn.Module):
    """A CLIP whose weights never change, in evaluation mode, in float32.

    Args:
        clip: architecture and weights.
        device: where to run.
        weights: file to load instead of what `clip.weights` names.

    Raises:
        ConfigError: the architecture is unknown or its visual tower is not a plain ViT.
    """

    def __init__(self, clip: ClipConfig, device: str = "cpu", weights: Path | None = None) -> None:
        super().__init__()
        # open_clip's towers are duck-typed: their attributes are checked below, not by the type checker
        self.model: Any = create_open_clip(clip, weights).float().requires_grad_(False)
        self.tokenizer: Any = open_clip.get_tokenizer(clip.model)
        visual = self.model.visual
        if not hasattr(visual, "transformer") or getattr(visual, "attn_pool", None) is not None:
            raise ConfigError(
                f"clip.model {clip.model!r} has no plain ViT tower: choose a ViT without attention pooling"
            )
        self.visual: Any = visual
        self.patch: int = visual.patch_size[0]
        self.native: int = visual.image_size[0]
        self.width: int = visual.conv1.out_channels
        self.depth: int = len(visual.transformer.resblocks)
        self.dim: int = visual.proj.shape[1]
        self.mean: tuple[float, ...] = tuple(visual.preprocess_cfg["mean"])
        self.std: tuple[float, ...] = tuple(visual.preprocess_cfg["std"])
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.visual.proj.device

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

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Positional table for a token grid, resized bicubically when it is not the native one. (1 + h*w, width)."""
        table = self.visual.positional_embedding
        native = self.visual.grid_size
        if tuple(grid) == tuple(native):
            return table
        square = table[1:].reshape(1, *native, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], resized.flatten(2)[0].T])

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patch and CLS tokens before the first block. (B, 1 + h*w, width)."""
        x = self.visual.conv1(images)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        cls = self.visual.class_embedding.expand(len(x), 1, -1)
        return self.visual.ln_pre(torch.cat([cls, x], 1) + self._positions(grid)), grid

    def _project(self, x: Tensor) -> Tensor:
        """`ln_post` and projection into CLIP space."""
        return self.visual.ln_post(x) @ self.visual.proj

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """CLS embedding of preprocessed images of any size. (B, 3, H, W) -> (B, D), not normalised."""
        x, _ = self._embed(images.to(self.device))
        for block in self.visual.transformer.resblocks:
            x = block(x)
        return self._project(x[:, 0])

    @torch.inference_mode()
    def dense(self, images: Tensor, variant: str = "value", decoder_blocks: Sequence[int] = ()) -> DenseOutput:
        """Image embedding, dense features and token maps from one forward pass.

        Args:
            images: preprocessed, sides multiples of the patch. Shape: (B, 3, H, W).
            variant: `value`, `qq`, `kk` or `last`, see FeaturesConfig.
            decoder_blocks: blocks whose output tokens to return, counted from 1.

        Returns:
            Everything in float32 on `self.device`.

        Source: paper (cluster dense CLIP features); variants are choices, see module docstring.
        """
        blocks = self.visual.transformer.resblocks
        x, grid = self._embed(images.to(self.device))
        outputs: list[Tensor] = []
        last_input = x
        for layer in blocks:
            last_input = x
            x = layer(x)
            outputs.append(x)
        tokens = {index: _to_grid(outputs[index - 1][:, 1:], grid) for index in decoder_blocks}
        if variant == "last":
            flat = self._project(x[:, 1:])
        else:
            flat = self._project(self._self_attention(blocks[-1], last_input, variant)[:, 1:])
        return DenseOutput(self._project(x[:, 0]), F.normalize(_to_grid(flat, grid), dim=-1), tokens)

    @staticmethod
    def _self_attention(layer: Any, x: Tensor, variant: str) -> Tensor:
        """Last block without residual and MLP: values, or values mixed by q-q or k-k attention. (B, N, width)."""
        attention = layer.attn
        q, k, v = F.linear(layer.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        if variant != "value":
            heads = attention.num_heads
            source = {"qq": q, "kk": k}[variant]
            split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (source, v)]  # (B, heads, N, width/heads)
            v = F.scaled_dot_product_attention(split[0], split[0], split[1]).transpose(1, 2).flatten(2)
        return attention.out_proj(v)

    @torch.inference_mode()
    def encode_regions(self, images: Tensor, regions: Sequence[Tensor], blocks: int) -> list[Tensor]:
        """CLS embedding of each region by masked attention: one image forward, then a CLS copy for each region.

        In the last `blocks` blocks every region's CLS token attends to the region's patches and to itself only; the
        patches go on as in the plain forward pass.

        Args:
            images: Shape: (B, 3, H, W).
            regions: for each image which tokens belong to each region, non-empty. Shapes: (R_i, h*w), bool.
            blocks: how many last blocks are masked.

        Returns:
            Embeddings, not normalised. Shapes: (R_i, D).

        Source: choice.
        """
        layers = self.visual.transformer.resblocks
        if not 1 <= blocks <= len(layers):
            raise ConfigError(f"regions.blocks {blocks} does not fit this tower: expected 1 to {len(layers)}")
        x, _ = self._embed(images.to(self.device))
        for layer in layers[: len(layers) - blocks]:
            x = layer(x)
        count = max((len(region) for region in regions), default=0)
        if count == 0:
            return [x.new_zeros(0, self.dim) for _ in regions]
        patches = x.shape[1] - 1
        allowed = torch.zeros(len(x), count, patches, dtype=torch.bool, device=x.device)
        for index, region in enumerate(regions):
            allowed[index, : len(region)] = region.to(x.device)
        own = torch.eye(count, dtype=torch.bool, device=x.device).expand(len(x), -1, -1)
        mask = torch.cat([own, allowed], 2)[:, None]  # (B, 1, R, R + N)
        cls = x[:, :1].expand(-1, count, -1)
        for layer in layers[len(layers) - blocks :]:
            cls_next = self._region_block(layer, cls, x[:, 1:], mask)
            x = layer(x)
            cls = cls_next
        embedded = self._project(cls)
        return [embedded[index, : len(region)] for index, region in enumerate(regions)]

    @staticmethod
    def _region_block(layer: Any, cls: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        """One block for the region CLS tokens alone. (B, R, width) -> (B, R, width)."""
        attention = layer.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        width = cls.shape[-1]
        q = F.linear(layer.ln_1(cls), weight[:width], bias[:width])
        k, v = F.linear(layer.ln_1(torch.cat([cls, patches], 1)), weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        cls = cls + layer.ls_1(attention.out_proj(mixed))
        return cls + layer.ls_2(layer.mlp(layer.ln_2(cls)))

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


def _to_grid(flat: Tensor, grid: tuple[int, int]) -> Tensor:
    return flat.unflatten(1, grid)
