"""The frozen CLIP: image and text embeddings, dense features, token maps and region embeddings.

How an image becomes tokens and tokens become embeddings is in `towers`, how weights are loaded in `clip_weights`. The
image embedding at the native size equals open_clip's `encode_image` (tested to 1e-5).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from split_matching.configs.settings import ClipConfig
from split_matching.model.clip_weights import create_open_clip, load_tokenizer
from split_matching.model.towers import Tower, open_tower

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class DenseOutput:
    """What one forward pass of the visual tower gives.

    Args:
        cls: image embedding in CLIP space, not normalised. Shape: (B, D).
        dense: dense features in CLIP space, L2-normalised. Shape: (B, h, w, D).
        tokens: output tokens of the chosen blocks. Shapes: (B, h, w, width).
        prefixes: the tokens before those of the patches, of the same blocks: CLS, or none. Shapes: (B, p, width).
    """

    cls: Tensor
    dense: Tensor
    tokens: dict[int, Tensor]
    prefixes: dict[int, Tensor]


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

    @property
    def logit_scale(self) -> float:
        """What CLIP multiplies cosines of images and texts by before its softmax: one over its temperature."""
        return float(self.model.logit_scale.exp())

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
        return load_tokenizer(self.name)

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
            variant: see FeaturesConfig.
            decoder_blocks: blocks whose output tokens to return, counted from 1.

        Returns:
            Everything in float32 on `self.device`.

        Raises:
            ConfigError: the tower has no such variant.

        Source: paper (cluster dense CLIP features); see `dense_variants`.
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
        flat = self.tower.dense(before, x, variant, grid)
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
        """Embedding of each region by masked attention: one forward pass of the image for all of its regions.

        The patches are computed as in the plain forward pass; what attends to them, and from which block on, is the
        tower's choice (see `Tower.regions`).

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
    def encode_classes(
        self, names: Sequence[str], templates: Sequence[str], prompts: Mapping[str, Sequence[str]] | None = None
    ) -> Tensor:
        """Text embedding of each class: normalised per text, averaged over its texts, normalised again.

        Args:
            names: class names.
            templates: each with one `{}`.
            prompts: by name, the words that templates take in place of the name; a class has a text for each pair of
                word and template.

        Returns:
            Shape: (len(names), D), float32, unit length, on the CPU.

        Source: prompt ensembles of CLIP (arXiv 2103.00020), in embedding space.
        """
        words = [(prompts or {}).get(name, (name,)) for name in names]
        of_class = [[template.replace("{}", word) for word in some for template in templates] for some in words]
        texts = [text for some in of_class for text in some]
        embedded = [
            self.model.encode_text(self.tokenizer(texts[i : i + 256]).to(self.device)).float()
            for i in range(0, len(texts), 256)
        ]
        parts = F.normalize(torch.cat(embedded), dim=-1).split([len(some) for some in of_class])
        return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1).cpu()
