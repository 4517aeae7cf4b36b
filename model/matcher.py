"""Split matching: two independent assignments an image, one for each query group.

Source: paper (decoupled assignment: class similarity plus mask consistency). The seen group is matched to the annotated
seen classes, the candidate group to the pseudo masks; a seen query can never take a candidate, nor the reverse. Costs
after Mask2Former (class 2, BCE 5, dice 5) are choices. The matcher returns indices only; losses are the criterion's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Indices = list[tuple[Tensor, Tensor]]
"""For each image: matched queries and the targets they got, both (n,) int64; n = min(queries, targets)."""


def flatten(indices: Indices, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matches of a batch in one row: their images, queries and targets. (M,) each, int64.

    So `masks[image, query]` are the matched masks, and `targets[image, target]` what they were matched to.
    """
    image = torch.cat([torch.full_like(query, number) for number, (query, _) in enumerate(indices)])
    query, target = (torch.cat([pair[side] for pair in indices]) for side in (0, 1))
    return image.to(device), query.to(device), target.to(device)


def mask_costs(masks: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and dice of every query against every target.

    Args:
        masks: mask logits; below -80 they count as -80. Shape: (B, Q, P).
        targets: coverage in 0..1. Shape: (B, T, P).
        valid: 1 on cells that count, 0 on padding. Shape: (B, P), float.

    Returns:
        Mean BCE over valid cells, and 1 - dice. Shapes: (B, Q, T).
    """
    if masks.device.type == "cpu" and len(masks) > 1:
        # image by image: intermediate results then fit into the processor's cache
        parts = [mask_costs(*(t[None] for t in image)) for image in zip(masks, targets, valid, strict=True)]
        bce, dice = (torch.cat(rows) for rows in zip(*parts, strict=True))
        return bce, dice
    cells = valid.sum(1).clamp(min=1)[:, None, None]  # (B, 1, 1)
    weighted = targets * valid[:, None]  # (B, T, P)
    columns = torch.cat([weighted, valid[:, None]], 1).transpose(1, 2)  # (B, P, T + 1): sums over cells are products
    # BCE(x, t) = softplus(x) - x t = x - log(sigmoid(x)) - x t. The sigmoid is needed for dice anyway; softplus itself
    # took two thirds of the whole on a CPU, where torch does not vectorise log1p. Above -80 the logarithm is finite.
    logits = masks.clamp(min=-80)
    probability = logits.sigmoid()
    products, sums = logits @ columns, probability @ columns  # (B, Q, T + 1)
    bce = (products[..., -1:] - probability.log() @ columns[..., -1:] - products[..., :-1]) / cells
    total = sums[..., -1:] + weighted.sum(2)[:, None]  # (B, Q, T)
    return bce, 1 - (2 * sums[..., :-1] + 1) / (total + 1)


def assign(cost: Tensor, counts: Sequence[int]) -> Indices:
    """Solve one assignment an image.

    Args:
        cost: Shape: (B, Q, T); columns from `counts[i]` on are padding.
        counts: targets of each image.

    Returns:
        Indices on the CPU, queries ascending.
    """
    table = cost.detach().float().cpu().numpy()
    result: Indices = []
    for block, count in zip(table, counts, strict=True):
        rows, cols = linear_sum_assignment(block[:, :count])
        result.append((torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(cols.astype(np.int64))))
    return result


class SplitMatcher:
    """Costs of both groups in one batch on the device, one transfer, then 2 B small assignments.

    Args:
        cost_class: weights of the class terms of the seen and of the candidate group.
        cost_mask: weight of BCE.
        cost_dice: weight of dice.
    """

    def __init__(self, cost_class: tuple[float, float], cost_mask: float, cost_dice: float) -> None:
        self.cost_class, self.cost_mask, self.cost_dice = cost_class, cost_mask, cost_dice

    def cost(self, weight: float, affinity: Tensor, masks: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Matching cost of one group.

        Args:
            weight: of its class term.
            affinity: class term, higher is better. Shape: (B, Q, T).
            masks: mask logits. Shape: (B, Q, P).
            targets: Shape: (B, T, P).
            valid: Shape: (B, P).

        Returns:
            Shape: (B, Q, T).
        """
        bce, dice = mask_costs(masks, targets, valid)
        return self.cost_mask * bce + self.cost_dice * dice - weight * affinity

    @torch.no_grad()
    def __call__(
        self,
        seen: tuple[Tensor, Tensor, Tensor],
        candidate: tuple[Tensor, Tensor, Tensor],
        valid: Tensor,
        counts: tuple[Sequence[int], Sequence[int]],
    ) -> tuple[Indices, Indices]:
        """Match both groups of a batch.

        Args:
            seen: affinity (B, Qs, Ts), mask logits (B, Qs, P), targets (B, Ts, P) of the seen group.
            candidate: the same of the candidate group.
            valid: 1 on cells that count. Shape: (B, P).
            counts: for each group the number of targets of every image.

        Returns:
            Indices of the seen group, and of the candidate group (query numbers within the group).
        """
        groups = zip(self.cost_class, (seen, candidate), strict=True)
        costs = [self.cost(weight, *group, valid) for weight, group in groups]  # (B, Qs, Ts), (B, Qc, Tc)
        sizes = [c.shape[1:] for c in costs]
        moved = torch.cat([c.flatten(1) for c in costs], 1).float().cpu()  # one transfer a step
        split = moved.split([q * t for q, t in sizes], 1)
        first, second = (part.unflatten(1, (q, t)) for part, (q, t) in zip(split, sizes, strict=True))
        return assign(first, counts[0]), assign(second, counts[1])
