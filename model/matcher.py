"""Split matching: two independent assignments an image, one for each query group.

Source: paper (decoupled assignment: class similarity plus mask consistency). The seen group is matched to the annotated
seen classes, the candidate group to the pseudo masks; a seen query can never take a candidate, nor the reverse. Costs
after Mask2Former (class 2, BCE 5, dice 5) are choices. The matcher returns indices only; losses are the criterion's.

The queries of several decoder layers can be matched together: they stand side by side, those of layer l from l * Q / L
on, and each layer has an assignment of its own. Targets are the same in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Indices = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""For each image: matched queries and the targets they got, both (n,); n = L * min(queries of a layer, targets)."""


class CostWeights(NamedTuple):
    """What the terms of a group's matching cost weigh.

    Args:
        similarity: of the class term.
        mask: of BCE.
        dice: of dice.
    """

    similarity: float
    mask: float
    dice: float


class NotFiniteError(ArithmeticError):
    """Predictions of a layer have costs that are not finite.

    Args:
        layer: its number.
    """

    def __init__(self, layer: int) -> None:
        super().__init__(f"the predictions of layer {layer} are not finite")
        self.layer = layer


def flatten(indices: Indices) -> NDArray[np.int64]:
    """Return the matches of a batch in one row: their images, queries and targets. (3, M).

    So `masks[image, query]` are the matched masks, and `targets[image, target]` what they were matched to.
    """
    image = np.repeat(np.arange(len(indices)), [len(query) for query, _ in indices])
    query, target = (np.concatenate([pair[side] for pair in indices]) for side in (0, 1))
    return np.stack([image, query, target])


def mask_costs(masks: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and dice of every query against every target.

    Args:
        masks: mask logits; below -80 they count as -80. Shape: (B, Q, P), or of L layers (B, L, Q / L, P).
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
    logits = masks.clamp(min=-80).flatten(1, -2)  # (B, Q, P), a copy in any case
    probability = logits.sigmoid()
    products, sums = logits @ columns, probability @ columns  # (B, Q, T + 1)
    bce = (products[..., -1:] - probability.log() @ columns[..., -1:] - products[..., :-1]) / cells
    total = sums[..., -1:] + weighted.sum(2)[:, None]  # (B, Q, T)
    return bce, 1 - (2 * sums[..., :-1] + 1) / (total + 1)


def assign(cost: NDArray[np.float32], counts: Sequence[int], layers: int = 1) -> Indices:
    """Solve one assignment an image and layer.

    Args:
        cost: Shape: (B, Q, T); columns from `counts[i]` on are padding.
        counts: targets of each image.
        layers: L, whose queries stand side by side.

    Returns:
        Layer after layer, queries ascending.
    """
    result: Indices = []
    for block, count in zip(cost, counts, strict=True):
        solved = [linear_sum_assignment(layer[:, :count]) for layer in np.split(block, layers)]
        first = np.repeat(np.arange(layers) * (len(block) // layers), [len(rows) for rows, _ in solved])
        queries, targets = (np.concatenate([pair[side] for pair in solved]).astype(np.int64) for side in (0, 1))
        result.append((queries + first, targets))
    return result


class SplitMatcher:
    """Costs of both groups in one batch on the device, one transfer, then 2 L B small assignments.

    Args:
        seen: weights of the seen group.
        candidate: weights of the candidate group.
    """

    def __init__(self, seen: CostWeights, candidate: CostWeights) -> None:
        self.weights = (seen, candidate)

    @staticmethod
    def cost(weights: CostWeights, affinity: Tensor, masks: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Matching cost of one group.

        Args:
            weights: of its terms.
            affinity: class term, higher is better. Shape: (B, Q, T).
            masks: mask logits. Shape: (B, Q, P), or of L layers (B, L, Q / L, P).
            targets: Shape: (B, T, P).
            valid: Shape: (B, P).

        Returns:
            Shape: (B, Q, T).
        """
        bce, dice = mask_costs(masks, targets, valid)
        return weights.mask * bce + weights.dice * dice - weights.similarity * affinity

    @torch.no_grad()
    def __call__(
        self,
        seen: tuple[Tensor, Tensor, Tensor],
        candidate: tuple[Tensor, Tensor, Tensor],
        valid: Tensor,
        counts: tuple[Sequence[int], Sequence[int]],
        layers: int = 1,
    ) -> tuple[Indices, Indices]:
        """Match both groups of a batch.

        Args:
            seen: affinity (B, Qs, Ts), mask logits (B, Qs, P), targets (B, Ts, P) of the seen group.
            candidate: the same of the candidate group.
            valid: 1 on cells that count. Shape: (B, P).
            counts: for each group the number of targets of every image.
            layers: L, whose queries stand side by side in each group.

        Returns:
            Indices of the seen group, and of the candidate group (query numbers within the group).

        Raises:
            NotFiniteError: a cost is NaN or infinite.
        """
        groups = zip(self.weights, (seen, candidate), strict=True)
        costs = [self.cost(weights, *group, valid) for weights, group in groups]  # (B, Qs, Ts), (B, Qc, Tc)
        moved = torch.cat([c.flatten(1) for c in costs], 1).float().cpu().numpy()  # the one transfer of a step
        parts = np.split(moved, [costs[0][0].numel()], 1)
        tables = [part.reshape(cost.shape) for part, cost in zip(parts, costs, strict=True)]
        if not np.isfinite(moved).all():
            rows = np.concatenate([t.reshape(len(t), layers, t[0].size // layers) for t in tables], 2)  # (B, L, ...)
            raise NotFiniteError(int(np.isfinite(rows).all((0, 2)).argmin()))
        first, second = (assign(table, count, layers) for table, count in zip(tables, counts, strict=True))
        return first, second
