"""Fusion: the frozen CLIP names the region that a query predicts, and the query's own answer is mixed with it.

Source: ZegFormer and zsseg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.settings import RegionsConfig
from split_matching.model.votes import fuse
from split_matching.stages.candidates.region_embedding import RegionItem, embed_regions

if TYPE_CHECKING:  # open_clip takes seconds to import
    from split_matching.model.clip import FrozenClip

Pixels = Callable[[], NDArray[np.uint8]]
"""Reads an image or window, (H, W, 3) uint8; called only where its pixels matter."""

MIN_CELLS = 4
"""A query whose mask covers fewer cells keeps its own answer: CLIP cannot name a speck (choice)."""


class Fusion:
    """Mixes the answers of queries with those of the frozen CLIP.

    Args:
        config: reads `evaluate`, `regions`; for the mean of dense features `features.variant`.
        clip: the frozen CLIP.
        text: embeddings of all classes, unit length. Shape: (C, D).
    """

    def __init__(self, config: Any, clip: FrozenClip, text: Tensor) -> None:
        self.clip, self.text, self.temperature = clip, text, clip.logit_scale
        self.weight, self.floor = config.evaluate.fusion, config.evaluate.fusion_floor
        self.regions: RegionsConfig = config.regions.model_copy(update={"method": config.evaluate.fusion_method})
        self.variant = config.features.variant if self.regions.method == "mean" else None

    def fuse(self, shares: Tensor, masks: Tensor, pixels: Sequence[Pixels], grid: tuple[int, int]) -> Tensor:
        """Mix the class probabilities of all queries of some images.

        Args:
            shares: the queries' own class probabilities. Shape: (B, Q, C).
            masks: logits of their masks. Shape: (B, Q, H', W').
            pixels: the images; B of them.
            grid: height and width of the images in tokens.

        Returns:
            Shape: (B, Q, C).
        """
        named = [self._name_regions(shares[row], masks[row] > 0, read(), grid) for row, read in enumerate(pixels)]
        return fuse(shares, torch.stack(named), self.weight)

    def _name_regions(self, shares: Tensor, masks: Tensor, image: NDArray[np.uint8], grid: tuple[int, int]) -> Tensor:
        """CLIP's class probabilities of the region of every query; NaN where a query keeps its own. (Q, C)."""
        # a query that is sure of "nothing" has next to no vote: naming it would be wasted
        shown = (masks.sum((1, 2)) >= MIN_CELLS) & (shares.sum(1) > self.floor)
        named = torch.full_like(shares, torch.nan)
        if shown.any():
            item = RegionItem(masks[shown].cpu().numpy(), self._dense(image, *grid), image)
            [embeddings] = embed_regions(self.clip, [item], self.regions)
            named[shown] = (self.temperature * embeddings.to(self.text.device) @ self.text.T).softmax(-1)
        return named

    def _dense(self, image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
        """Dense features for the `mean` of regions; the other methods need their grid alone. (h, w, D)."""
        if self.variant is None:
            return np.zeros((height, width, 0), np.float32)
        pixels = self.clip.preprocess(image, height * self.clip.patch, width * self.clip.patch)
        return np.asarray(self.clip.dense(pixels[None], self.variant).dense[0].cpu().numpy())
