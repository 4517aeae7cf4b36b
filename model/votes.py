"""From queries to class scores.

Source: `semseg[c] = sum_q p_q(c) sigmoid(mask_q)` after MaskFormer; fusion with CLIP after ZegFormer; which classes a
group votes for, and weights of the groups, are choices.
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


def group_votes(seen: Tensor, seen_queries: int, queries: int, weight: float, own: bool) -> Tensor:
    """What the vote of each query for each class counts.

    Args:
        seen: which classes are seen. Shape: (C,), bool.
        seen_queries: Qs.
        queries: Q.
        weight: of the candidate group against the seen group.
        own: whether a group votes for its own classes only: seen queries for the seen ones, candidates for the others.

    Returns:
        Shape: (Q, C), float.

    Source: choice. Own classes only was ahead on all folds of the seen classes of `shapes`, and behind on its unseen
    classes: see configs/ablations/own_classes.yaml.
    """
    votes = torch.ones(queries, len(seen), device=seen.device)
    votes[seen_queries:] = weight
    if own:
        votes[:seen_queries, ~seen] = 0
        votes[seen_queries:, seen] = 0
    return votes


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
