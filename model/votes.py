"""From queries to class scores.

Source: `semseg[c] = sum_q p_q(c) sigmoid(mask_q)` after MaskFormer; fusion with CLIP after ZegFormer; the weights of
the groups are choices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from split_matching.model.query_decoder import QueryOutput


def query_probabilities(
    output: QueryOutput, text: Tensor, seen_queries: int, temperatures: tuple[float, float]
) -> Tensor:
    """Class probabilities of every query, by the classes' text embeddings alone.

    Args:
        output: the last layer's prediction.
        text: embeddings of all classes, unit length. Shape: (C, D).
        seen_queries: Qs, the size of the seen group.
        temperatures: logit scales of the seen and of the candidate group.

    Returns:
        Rows of the seen group sum to 1 less their "no object", those of the candidate group to 1: it was never pushed
        to "no object". Shape: (B, Q, C).
    """
    cosines = output.embeddings @ text.T  # (B, Q, C)
    seen = torch.cat([temperatures[0] * cosines, output.no_object[..., None]], 2)[:, :seen_queries].softmax(-1)
    candidates = (temperatures[1] * cosines[:, seen_queries:]).softmax(-1)
    return torch.cat([seen[..., :-1], candidates], 1)


def candidate_confidence(output: QueryOutput, kind: str) -> Tensor:
    """How much the vote of each query counts by its own account.

    Args:
        output: the last layer's prediction.
        kind: "none", "mask": mean of the mask where it is positive, "quality": the IoU that it expects, or "both".

    Returns:
        In 0..1; means something for the candidate group only. Shape: (B, Q).

    Source: mask confidence after Mask2Former, expected IoU after Mask Scoring R-CNN.
    """
    confidence = torch.ones_like(output.quality)
    if kind in ("mask", "both"):
        inside = output.masks > 0
        confidence = (output.masks.sigmoid() * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
    return confidence * output.quality.sigmoid() if kind in ("quality", "both") else confidence


def group_weights(seen_queries: int, queries: int, weight: float, device: torch.device) -> Tensor:
    """What the votes of each query count. Source: choice.

    Args:
        seen_queries: Qs.
        queries: Q.
        weight: of the candidate group against the seen group.
        device: of the result.

    Returns:
        Shape: (Q, 1), float.
    """
    weights = torch.ones(queries, 1, device=device)
    weights[seen_queries:] = weight
    return weights


def fuse(share: Tensor, named: Tensor, weight: float) -> Tensor:
    """Geometric ensemble of a query's own class probabilities with the frozen CLIP's of its region.

    Args:
        share: the queries' own. Shape: (B, Q, C).
        named: CLIP's; rows of NaN leave a query as it is. Shape: (B, Q, C).
        weight: of CLIP, 0..1.

    Returns:
        `share^(1-w) named^w`, scaled so that every query keeps its total vote. Shape: (B, Q, C).

    Source: ZegFormer.
    """
    total = share.sum(2, keepdim=True)
    own = (share / total.clamp(min=1e-9)).clamp(min=1e-9)
    mixed = own ** (1 - weight) * named.clamp(min=1e-9) ** weight
    mixed = mixed / mixed.sum(2, keepdim=True) * total
    return torch.where(named.isnan(), share, mixed)


def normalise_scores(scores: Tensor) -> Tensor:
    """Scores as shares of each cell's total, so that `gamma` means the same everywhere. (B, C, H, W)."""
    return scores / scores.sum(1, keepdim=True).clamp(min=1e-6)
