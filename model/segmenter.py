"""From queries to a label map.

Source: `semseg[c] = sum_q p_q(c) sigmoid(mask_q)` after MaskFormer; weights of the groups and `gamma` are choices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.query_decoder import QueryOutput


def class_scores(
    output: QueryOutput,
    text: Tensor,
    seen_queries: int,
    temperature: float,
    candidate_weight: float,
) -> Tensor:
    """Class scores of every cell: both groups vote for every class, by its text embedding alone.

    Args:
        output: the last layer's prediction.
        text: embeddings of all classes, unit length. Shape: (C, D).
        seen_queries: Qs, the size of the seen group.
        temperature: tau.
        candidate_weight: weight of the candidate group's votes.

    Returns:
        Shape: (B, C, H', W'), not normalised.
    """
    logits = temperature * output.embeddings @ text.T  # (B, Q, C)
    # only the seen group knows "nothing": the candidate group was never pushed there
    seen = torch.cat([logits, output.no_object[..., None]], 2)[:, :seen_queries].softmax(-1)[..., :-1]
    candidate = candidate_weight * logits[:, seen_queries:].softmax(-1)
    return torch.einsum("bqc,bqhw->bchw", torch.cat([seen, candidate], 1), output.masks.sigmoid())


def normalise_scores(scores: Tensor) -> Tensor:
    """Scores as shares of each cell's total, so that `gamma` means the same everywhere. (B, C, H, W)."""
    return scores / scores.sum(1, keepdim=True).clamp(min=1e-6)


def label_map(scores: Tensor, seen: Tensor, gamma: float, height: int, width: int) -> Tensor:
    """Resample scores to the image and take the best class.

    Args:
        scores: class scores of one image. Shape: (C, H', W').
        seen: which classes are seen. Shape: (C,), bool.
        gamma: subtracted from seen classes' scores (calibrated stacking, Chao et al. 2016).
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        Index of the class at each pixel. Shape: (height, width), int64.
    """
    full = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]
    return (full - gamma * seen[:, None, None].to(full.dtype)).argmax(0)
