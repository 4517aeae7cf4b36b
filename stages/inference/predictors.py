"""From one image's features to class scores: the trained decoder, or the frozen CLIP alone as a baseline.

Source: MaskFormer's vote for the decoder; fusion with CLIP's own score of the predicted region after ZegFormer and
zsseg; `dense` is MaskCLIP's training-free labelling, `regions` names clusters by their CLS embedding (choices).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.schema import PseudoMasksConfig, RegionsConfig
from split_matching.model.query_decoder import QueryDecoder, QueryOutput
from split_matching.model.votes import fuse, group_votes, normalise_scores, query_probabilities
from split_matching.stages.candidates.clustering import cluster
from split_matching.stages.candidates.region_embedding import RegionItem, embed_regions
from split_matching.stages.ground.region_map import masks_of

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on cached features does without
    from split_matching.model.clip import FrozenClip

Pixels = Callable[[], NDArray[np.uint8]]
"""Reads an image or window, (H, W, 3) uint8; called only where its pixels matter."""

MIN_CELLS = 4  # a query whose mask covers fewer cells keeps its own score: CLIP cannot name a speck


class DecoderPredictor:
    """Class scores by the votes of a trained decoder's queries.

    Args:
        model: the trained decoder.
        text: embeddings of all classes, unit length. Shape: (C, D).
        seen: which of them are seen. Shape: (C,), bool.
        config: reads `decoder`, `evaluate`, `train.matching`; for fusion `regions` and `features.variant`.
        clip: the frozen CLIP; needed for fusion only.
    """

    def __init__(self, model: QueryDecoder, text: Tensor, seen: Tensor, config: Any, clip: FrozenClip) -> None:
        self.model, self.text, self.clip = model, text, clip
        self.config, self.temperature = config.evaluate, config.decoder.temperature
        # a baseline trained by single matching has one group: all of its queries know "nothing"
        single = config.train.matching == "single"
        queries = config.decoder.seen_queries + config.decoder.candidate_queries
        self.group = queries if single else config.decoder.seen_queries
        own = self.config.group_classes == "own" and not single
        self.votes = group_votes(seen, self.group, queries, self.config.candidate_weight, own)
        self.regions: RegionsConfig | None = None
        if self.config.fusion > 0:
            self.regions = config.regions.model_copy(update={"method": self.config.fusion_method})
        self.variant = config.features.variant if self.regions and self.regions.method == "mean" else None

    @torch.inference_mode()
    def __call__(self, maps: list[Tensor], pixels: Sequence[Pixels]) -> Tensor:
        """Score images or windows of one grid.

        Args:
            maps: token maps. Shapes: (B, h, w, width), float32.
            pixels: what the maps show; B of them.

        Returns:
            Class scores on the mask grid, as shares of each cell's total. Shape: (B, C, H', W'), float32.
        """
        valid = torch.ones(maps[0].shape[:3], dtype=torch.bool, device=self.text.device)
        output = self.model(maps, valid)[-1]
        share = query_probabilities(output, self.text, self.group, self.temperature)
        if self.regions is not None:
            named = [self._clip_scores(output, share, row, read(), maps) for row, read in enumerate(pixels)]
            share = fuse(share, torch.stack(named), self.config.fusion)
        return normalise_scores(torch.einsum("bqc,bqhw->bchw", share * self.votes, output.masks.sigmoid()))

    def _clip_scores(
        self, output: QueryOutput, share: Tensor, row: int, image: NDArray[np.uint8], maps: list[Tensor]
    ) -> Tensor:
        """CLIP's class probabilities of every query's predicted region; NaN where a query keeps its own. (Q, C)."""
        assert self.regions is not None
        masks = output.masks[row] > 0
        # a query that is sure of "nothing" has next to no vote: naming it would be wasted
        asked = (masks.sum((1, 2)) >= MIN_CELLS) & (share[row].sum(1) > self.config.fusion_floor)
        named = torch.full_like(share[row], torch.nan)
        if asked.any():
            chosen = masks[asked].cpu().numpy()
            dense = self._dense(image, maps[0].shape[1], maps[0].shape[2])
            [embedded] = embed_regions(self.clip, [RegionItem(chosen, dense, image)], self.regions)
            named[asked] = (self.temperature * embedded.to(self.text.device) @ self.text.T).softmax(-1)
        return named

    def _dense(self, image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
        """Dense features for the `mean` of regions; the other methods need their grid alone. (h, w, D)."""
        if self.variant is None:
            return np.zeros((height, width, 0), np.float32)
        pixels = self.clip.preprocess(image, height * self.clip.patch, width * self.clip.patch)
        return np.asarray(self.clip.dense(pixels[None], self.variant).dense[0].cpu().numpy())


def dense_scores(dense: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Training-free labelling of every token by its dense feature. (h, w, D), (C, D) -> (C, h, w)."""
    return (temperature * dense @ text.T).softmax(-1).permute(2, 0, 1)


def region_scores(
    points: NDArray[np.float32],
    dense: NDArray[np.float32],
    image: NDArray[np.uint8],
    clip: FrozenClip,
    text: Tensor,
    temperature: float,
    masks: PseudoMasksConfig,
    regions: RegionsConfig,
) -> Tensor:
    """Training-free labelling of clusters by their region embedding.

    Args:
        points: features to cluster. Shape: (h, w, width).
        dense: dense CLIP features. Shape: (h, w, D).
        image: RGB. Shape: (H, W, 3), uint8.
        clip: the frozen CLIP.
        text: Shape: (C, D).
        temperature: tau.
        masks: how to cluster.
        regions: how to embed.

    Returns:
        Shape: (C, H', W').
    """
    found = masks_of(cluster(points, masks))
    [embedded] = embed_regions(clip, [RegionItem(found, dense, image)], regions)
    named = (temperature * embedded.to(text.device) @ text.T).softmax(-1)
    return torch.einsum("rc,rhw->chw", named, torch.from_numpy(found).to(named))
