"""Class scores straight from pixels, where no token maps are cached: one forward pass, or sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.model.token_encoder import TokenEncoder, split_patches
from split_matching.stages.data.augment import View, take_image
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference.predictors import DecoderPredictor
from split_matching.stages.inference.sliding import Corner, slide_scores


class PixelScores:
    """Class scores of any image straight from its pixels: the whole image, or sliding windows.

    Args:
        config: reads `evaluate` and `features`.
        encoder: of the frozen CLIP.
        score: from token maps (n, h, w, width) and their pixels to class scores (n, C, h', w').
        prompts: the trained prompts, or None. Shape: (blocks, n, width).
        batch: windows scored at once.
    """

    def __init__(
        self, config: Any, encoder: TokenEncoder, score: DecoderPredictor, prompts: Tensor | None, batch: int
    ) -> None:
        self.config, self.features = config.evaluate, config.features
        self.encoder, self.score, self.prompts, self.batch = encoder, score, prompts, batch

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the scores of one image at the mask grid, or at the resized image's pixels for several windows.

        Args:
            image: RGB. Shape: (H, W, 3), uint8.

        Returns:
            Shape: (C, H', W').
        """
        clip, config = self.encoder.clip, self.config
        sides = (self.features.size, self.features.resize)
        if config.mode == "slide" and config.short_side is not None:
            sides = (config.short_side, "short")
        grid = clip.grid_for(image.shape[0], image.shape[1], *sides)
        size = (grid[0] * clip.patch, grid[1] * clip.patch)
        patch = clip.patch
        side = stride = max(size)  # one window, and no more is declared of the settings: see the stage
        if config.mode == "slide":
            side = patch * max(1, round(config.window / patch))
            stride = min(config.stride, side)  # a window that was rounded down to whole patches must not leave gaps
        window = (min(side, size[0]), min(side, size[1]))
        pixels = take_image(image, View.whole(*size))

        def score(corners: Sequence[Corner]) -> Tensor:
            parts = [pixels[y : y + window[0], x : x + window[1]] for y, x in corners]
            patches = torch.from_numpy(np.stack([split_patches(part, patch) for part in parts]))
            valid = torch.ones(patches.shape[:3], dtype=torch.bool, device=clip.device)
            maps = self.encoder(patches.to(clip.device).float(), valid, self.prompts)
            return self.score(maps, [partial(np.asarray, part) for part in parts])

        return slide_scores(size, window, stride, self.batch, score)


class ImageScores:
    """Class scores of validation images straight from their pixels, see `PixelScores`."""

    def __init__(self, ctx: StageContext, score: DecoderPredictor, prompts: Tensor | None = None) -> None:
        self.source = open_source(ctx.config.data, ctx.data_root)
        # as everywhere: on the CPU the bytes of a result do not depend on what shares its batch
        batch = 1 if device_of(ctx) == "cpu" else ctx.runtime.batch
        encoder = TokenEncoder(frozen_clip(ctx), ctx.config.features.decoder_blocks)
        self.pixels = PixelScores(ctx.config, encoder, score, prompts, batch)

    def __call__(self, image_id: str) -> Tensor:
        """Return the scores of one image. Shape: (C, H', W')."""
        return self.pixels(read_image(self.source.image_path(image_id)))
