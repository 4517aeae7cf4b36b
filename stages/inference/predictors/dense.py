"""A baseline without training: every token gets the class nearest to its dense CLIP feature.

Source: MaskCLIP's training-free labelling (arXiv 2112.01071); `features.variant` says of which features.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
import torch
from torch import Tensor

from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip


def load(ctx: StageContext, text: Tensor) -> LabelledTokens:
    """Load the baseline; see `PredictorModule`."""
    return LabelledTokens(ctx, text)


class LabelledTokens:
    """A `Predictor`.

    Args:
        ctx: context of Evaluate; input `features`.
        text: embeddings of all classes, unit length. Shape: (C, D).
    """

    def __init__(self, ctx: StageContext, text: Tensor) -> None:
        self.features, self.reading = ctx.inputs["features"].shards("val"), Lock()  # one thread reads at a time
        self.text, self.temperature = text, frozen_clip(ctx).logit_scale

    @torch.inference_mode()
    def score(self, image_id: str) -> Tensor:
        """Class scores of an image on the token grid. Shape: (C, h, w)."""
        with self.reading:
            dense = torch.from_numpy(self.features.read(image_id, "dense").astype(np.float32))
        return score_tokens(dense.to(self.text.device), self.text, self.temperature)

    def count_cost(self) -> None:
        """Not counted."""
        return


def score_tokens(dense: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Class probabilities of every token by its dense feature. (h, w, D), (C, D) -> (C, h, w)."""
    return (temperature * dense @ text.T).softmax(-1).permute(2, 0, 1)
