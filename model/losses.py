"""The loss terms of matched masks and embeddings, as plain functions.

Source: BCE and dice after Mask2Former, InfoNCE over regions: choices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_losses(masks: Tensor, targets: Tensor, valid: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and dice of matched masks, summed over masks and divided by `normaliser`.

    Args:
        masks: logits. Shape: (M, P).
        targets: coverage in 0..1. Shape: (M, P).
        valid: 1 on cells that count. Shape: (M, P).
        normaliser: number of targets, at least 1; a scalar.

    Returns:
        Two scalars.
    """
    bce = F.binary_cross_entropy_with_logits(masks, targets, reduction="none") * valid  # (M, P)
    bce = bce.sum(1) / valid.sum(1).clamp(min=1)  # (M,)
    probability, targets = masks.sigmoid() * valid, targets * valid
    dice = 1 - (2 * (probability * targets).sum(1) + 1) / (probability.sum(1) + targets.sum(1) + 1)  # (M,)
    return bce.sum() / normaliser, dice.sum() / normaliser


def nce_loss(
    predicted: Tensor, target: Tensor, temperature: float, alike: float, pool: Tensor | None = None, first: int = 0
) -> Tensor:
    """InfoNCE of matched queries to region embeddings; the negatives are the other regions of the batch.

    Regions that are close to each other, measured by the most distant two of the pool, are no negatives of each other:
    they show the same thing.

    Args:
        predicted: unit length. Shape: (M, D).
        target: unit length. Shape: (M, D).
        temperature: of the softmax.
        alike: two regions count as the same up to 1 - alike of the largest squared distance.
        pool: the targets of all processes, if several train together. Shape: (N, D), N >= M.
        first: row of `pool` where `target` begins.

    Returns:
        Sum over the M rows, a scalar.
    """
    pool = target if pool is None else pool
    own = torch.arange(first, first + len(target), device=target.device)  # (M,)
    distance = 1 - target @ pool.T  # (M, N), half the squared distance
    largest = (1 - pool @ pool.T).max() if len(pool) else distance.new_zeros(())
    same = distance <= (1 - alike) * largest
    same[torch.arange(len(target), device=target.device), own] = False
    logits = (predicted @ pool.T / temperature).masked_fill(same, -torch.inf)
    return F.cross_entropy(logits, own, reduction="sum")


def quality_loss(quality: Tensor, masks: Tensor, targets: Tensor, valid: Tensor, normaliser: Tensor) -> Tensor:
    """Cross entropy of the IoU that matched queries expect of their masks, divided by `normaliser`.

    Args:
        quality: logits. Shape: (M,).
        masks: logits; they do not learn by it. Shape: (M, P).
        targets: coverage in 0..1. Shape: (M, P).
        valid: 1 on cells that count. Shape: (M, P).
        normaliser: number of targets, at least 1; a scalar.

    Returns:
        A scalar.

    Source: the IoU head of SAM and Mask Scoring R-CNN; as a cross entropy, a choice.
    """
    covered = (masks.detach() > 0) * valid
    overlap = (covered * targets).sum(1)
    iou = overlap / (covered.sum(1) + (targets * valid).sum(1) - overlap).clamp(min=1e-6)
    return F.binary_cross_entropy_with_logits(quality, iou, reduction="sum") / normaliser
