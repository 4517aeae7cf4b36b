"""From token maps to class scores, by the votes of a trained decoder's queries.

Source: MaskFormer's vote; fusion with CLIP's own score of the predicted region after ZegFormer and zsseg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from split_matching.model.precision import decoder_dtype, in_dtype
from split_matching.model.query_decoder import QueryDecoder
from split_matching.model.resampling import Resampling, Size
from split_matching.model.votes import candidate_confidence, group_weights, normalise_scores, query_probabilities
from split_matching.stages.inference.fusion import Fusion, Pixels

if TYPE_CHECKING:  # open_clip takes seconds to import
    from split_matching.model.clip import FrozenClip


STRIP = {"cpu": 2**21, "cuda": 2**28}
"""Mask values and class scores that are computed at once."""


class DecoderScorer:
    """Class scores by the votes of a trained decoder's queries.

    Args:
        decoder: the trained decoder.
        text: embeddings of all classes, unit length. Shape: (C, D).
        config: reads `decoder`, `evaluate`, `train.matching`, `train.precision`; for fusion `regions` and
            `features.variant`.
        clip: the frozen CLIP.
    """

    def __init__(self, decoder: QueryDecoder, text: Tensor, config: Any, clip: FrozenClip) -> None:
        self.decoder, self.text, self.patch = decoder, text, clip.patch
        self.dtype = decoder_dtype(config.train.precision, text.device.type)
        self.temperatures = (config.decoder.temperature, config.evaluate.candidate_temperature or clip.logit_scale)
        self.confidence = config.evaluate.confidence
        self.group = config.decoder.seen_group(config.train.matching)
        queries = config.decoder.seen_queries + config.decoder.candidate_queries
        self.weights = group_weights(self.group, queries, config.evaluate.candidate_weight, text.device)
        self.fusion = Fusion(config, clip, text) if config.evaluate.fusion > 0 else None

    @torch.inference_mode()
    def score(self, maps: list[Tensor], pixels: Sequence[Pixels]) -> Tensor:
        """Score images or windows of one grid.

        Args:
            maps: token maps. Shapes: (B, h, w, width), float32.
            pixels: what the maps show; B of them.

        Returns:
            Class scores of the pixels that CLIP saw, as shares of each one's total, float32.
            Shape: (B, C, patch * h, patch * w).
        """
        grid = (maps[0].shape[1], maps[0].shape[2])
        valid = torch.ones(maps[0].shape[:3], dtype=torch.bool, device=self.text.device)
        with in_dtype(self.dtype, self.text.device.type):
            output = self.decoder(maps, valid)[-1].float32()
        shares = query_probabilities(output, self.text, self.group, self.temperatures)
        if self.fusion is not None:
            shares = self.fusion.fuse(shares, output.masks, pixels, grid)
        votes = shares * self.weights  # (B, Q, C)
        votes[:, self.group :] *= candidate_confidence(output, self.confidence)[:, self.group :, None]
        return count_votes(votes, output.masks, (grid[0] * self.patch, grid[1] * self.patch))


def count_votes(votes: Tensor, masks: Tensor, size: Size) -> Tensor:
    """Class scores from the votes of queries and the logits of their masks. (B, Q, C), (B, Q, H', W') -> (B, C, *size).

    Strip by strip, so that masks of that size are never whole in memory.
    """
    images, queries, classes = votes.shape
    scores = votes.new_empty(images, classes, *size)
    strip = STRIP[votes.device.type] // (images * (queries + classes))
    resampling = Resampling((masks.shape[2], masks.shape[3]), size, masks.device)
    for part, take in resampling.strips(strip):
        # logits are upsampled, not probabilities: the border stays as sharp as the decoder drew it
        inside = take(masks.flatten(0, 1)).sigmoid().view(images, queries, -1)
        scores[:, :, part] = normalise_scores((votes.mT @ inside).view(images, classes, -1, size[1]))
    return scores
