"""Class scores straight from pixels, where no token maps are cached: one forward pass, or sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.model.token_encoder import TokenEncoder, split_patches
from split_matching.stages.data.resize import resize_image
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import images_per_batch
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference.fusion import Pixels
from split_matching.stages.inference.sliding import Corner, slide_scores

ScoreMaps = Callable[[list[Tensor], Sequence[Pixels]], Tensor]
"""From token maps (n, h, w, width) and their pixels to class scores (n, C, h', w'), see `DecoderScorer.score`."""


class PixelScorer:
    """Class scores of any image straight from its pixels: the whole image, or sliding windows.

    Args:
        config: reads `evaluate` and `features`.
        encoder: of the frozen CLIP.
        score_maps: the trained decoder.
        prompts: the trained prompts, or None. Shape: (blocks, n, width).
        batch: windows scored at once.
    """

    def __init__(
        self, config: Any, encoder: TokenEncoder, score_maps: ScoreMaps, prompts: Tensor | None, batch: int
    ) -> None:
        self.config, self.features = config.evaluate, config.features
        self.encoder, self.score_maps, self.prompts, self.batch = encoder, score_maps, prompts, batch

    @torch.inference_mode()
    def score(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the scores of one image at the pixels of the resized image, as CLIP sees it.

        Args:
            image: RGB. Shape: (H, W, 3), uint8.

        Returns:
            Shape: (C, H', W').
        """
        size = self._size_in_patches(image.shape[0], image.shape[1])
        pixels = resize_image(image, *size)
        patch = self.encoder.clip.patch
        side = stride = max(size)  # one window, and no more is declared of the settings: see the stage
        if self.config.mode == "slide":
            side = patch * max(1, round(self.config.window / patch))
            stride = min(self.config.stride, side)  # a window that was rounded down to patches must not leave gaps
        window = (min(side, size[0]), min(side, size[1]))

        def score(corners: Sequence[Corner]) -> Tensor:
            return self._score_windows([pixels[y : y + window[0], x : x + window[1]] for y, x in corners])

        return slide_scores(size, window, stride, self.batch, score)

    def _size_in_patches(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image is resized: whole patches, in pixels."""
        sides = (self.features.size, self.features.resize)
        if self.config.mode == "slide" and self.config.short_side is not None:
            sides = (self.config.short_side, "short")
        clip = self.encoder.clip
        rows, cols = clip.grid_for(height, width, *sides)
        return rows * clip.patch, cols * clip.patch

    def _score_windows(self, windows: list[NDArray[np.uint8]]) -> Tensor:
        """Scores of windows of one size. n of (h, w, 3) -> (n, C, h', w')."""
        clip = self.encoder.clip
        patches = torch.from_numpy(np.stack([split_patches(window, clip.patch) for window in windows]))
        valid = torch.ones(patches.shape[:3], dtype=torch.bool, device=clip.device)
        maps = self.encoder(patches.to(clip.device).float(), valid, self.prompts)
        return self.score_maps(maps, [partial(np.asarray, window) for window in windows])


def make_pixel_scorer(ctx: StageContext, score_maps: ScoreMaps, prompts: Tensor | None = None) -> PixelScorer:
    """Return the scorer of a stage, see `PixelScorer`."""
    encoder = TokenEncoder(frozen_clip(ctx), ctx.config.features.decoder_blocks)
    return PixelScorer(ctx.config, encoder, score_maps, prompts, images_per_batch(ctx))
