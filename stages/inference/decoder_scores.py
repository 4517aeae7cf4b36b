"""From token maps to class scores, by the votes of a trained decoder's queries.

Source: MaskFormer's vote; fusion with CLIP's own score of the predicted region after ZegFormer and zsseg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from split_matching.model.query_decoder import QueryDecoder
from split_matching.model.votes import group_votes, normalise_scores, query_probabilities
from split_matching.stages.inference.fusion import Fusion, Pixels

if TYPE_CHECKING:  # open_clip takes seconds to import
    from split_matching.model.clip import FrozenClip


class DecoderScorer:
    """Class scores by the votes of a trained decoder's queries.

    Args:
        decoder: the trained decoder.
        text: embeddings of all classes, unit length. Shape: (C, D).
        seen: which of them are seen. Shape: (C,), bool.
        config: reads `decoder`, `evaluate`, `train.matching`; for fusion `regions` and `features.variant`.
        clip: the frozen CLIP; needed for fusion only.
    """

    def __init__(self, decoder: QueryDecoder, text: Tensor, seen: Tensor, config: Any, clip: FrozenClip) -> None:
        self.decoder, self.text, self.temperature = decoder, text, config.decoder.temperature
        # a baseline trained by single matching has one group: all of its queries know "nothing"
        single = config.train.matching == "single"
        queries = config.decoder.seen_queries + config.decoder.candidate_queries
        self.group = queries if single else config.decoder.seen_queries
        own = config.evaluate.group_classes == "own" and not single
        self.votes = group_votes(seen, self.group, queries, config.evaluate.candidate_weight, own)
        self.fusion = Fusion(config, clip, text) if config.evaluate.fusion > 0 else None

    @torch.inference_mode()
    def score(self, maps: list[Tensor], pixels: Sequence[Pixels]) -> Tensor:
        """Score images or windows of one grid.

        Args:
            maps: token maps. Shapes: (B, h, w, width), float32.
            pixels: what the maps show; B of them.

        Returns:
            Class scores on the mask grid, as shares of each cell's total. Shape: (B, C, H', W'), float32.
        """
        valid = torch.ones(maps[0].shape[:3], dtype=torch.bool, device=self.text.device)
        output = self.decoder(maps, valid)[-1]
        shares = query_probabilities(output, self.text, self.group, self.temperature)
        if self.fusion is not None:
            shares = self.fusion.fuse(shares, output.masks, pixels, (maps[0].shape[1], maps[0].shape[2]))
        return normalise_scores(torch.einsum("bqc,bqhw->bchw", shares * self.votes, output.masks.sigmoid()))
