"""The loss terms of matched masks and embeddings, as plain functions.

Source: BCE and dice after Mask2Former, InfoNCE over regions: choices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_losses(masks: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and dice of matched masks.

    Args:
        masks: logits. Shape: (.., P).
        targets: coverage in 0..1. Shape: (.., P).
        valid: 1 on cells that count. Shape: (.., P), or any that broadcasts to it.

    Returns:
        One of each a mask. Shapes: (..).
    """
    bce = F.binary_cross_entropy_with_logits(masks, targets, reduction="none") * valid  # (.., P)
    bce = bce.sum(-1) / valid.sum(-1).clamp(min=1)  # (..)
    probability, targets = masks.sigmoid() * valid, targets * valid
    dice = 1 - (2 * (probability * targets).sum(-1) + 1) / (probability.sum(-1) + targets.sum(-1) + 1)
    return bce, dice


def nce_loss(
    predicted: Tensor, target: Tensor, temperature: float, alike: float, pool: Tensor | None = None, first: int = 0
) -> Tensor:
    """InfoNCE of matched queries to region embeddings; the negatives are the other regions of the batch.

    Regions that are close to each other, measured by the most distant two of the pool, are no negatives of each other:
    they show the same thing.

    Args:
        predicted: unit length. Shape: (M, D), or of L batches that know nothing of each other (L, M, D).
        target: unit length. Shape: as `predicted`.
        temperature: of the softmax.
        alike: two regions count as the same up to 1 - alike of the largest squared distance.
        pool: the targets of all processes, if several train together. Shape: (N, D) or (L, N, D), N >= M.
        first: row of `pool` where `target` begins.

    Returns:
        Sum over all rows, a scalar.
    """
    pool = target if pool is None else pool
    if not pool.shape[-2]:
        return predicted.sum()  # 0, with a gradient
    own = torch.arange(first, first + target.shape[-2], device=target.device)  # (M,)
    others = own[:, None] != torch.arange(pool.shape[-2], device=target.device)  # (M, N)
    distance = 1 - target @ pool.mT  # (.., M, N), half the squared distance
    largest = (1 - pool @ pool.mT).amax((-2, -1), keepdim=True)
    same = (distance <= (1 - alike) * largest) & others
    logits = (predicted @ pool.mT / temperature).masked_fill(same, -torch.inf)
    return F.cross_entropy(logits.flatten(0, -2), own.expand(logits.shape[:-1]).flatten(), reduction="sum")


def quality_loss(quality: Tensor, masks: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Cross entropy of the IoU that matched queries expect of their masks.

    Args:
        quality: logits. Shape: (..).
        masks: logits; they do not learn by it. Shape: (.., P).
        targets: coverage in 0..1. Shape: (.., P).
        valid: 1 on cells that count. Shape: (.., P), or any that broadcasts to it.

    Returns:
        One a mask. Shape: (..).

    Source: the IoU head of SAM and Mask Scoring R-CNN; as a cross entropy, a choice.
    """
    covered = (masks.detach() > 0) * valid
    overlap = (covered * targets).sum(-1)
    iou = overlap / (covered.sum(-1) + (targets * valid).sum(-1) - overlap).clamp(min=1e-6)
    return F.binary_cross_entropy_with_logits(quality, iou, reduction="none")
