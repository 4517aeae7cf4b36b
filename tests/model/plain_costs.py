"""Costs of matching in plain numbers, and the best assignment by trying all: what matcher and criterion are held to."""

import itertools
import math

import torch


def best_pairs(cost: torch.Tensor) -> list[tuple[int, int]]:
    """Rows and columns of the assignment with the least total cost, by trying all of them."""
    rows, columns = cost.shape
    if rows < columns:
        return [(row, column) for column, row in best_pairs(cost.T)]
    ways = itertools.permutations(range(rows), columns)
    best = min(ways, key=lambda way: sum(cost[row, column].item() for column, row in enumerate(way)))
    return [(row, column) for column, row in enumerate(best)]


def plain_cost(affinity: float, logits: list[float], target: list[float], weights: tuple[float, float, float]) -> float:
    """Mask2Former's cost of one pair in plain numbers, on cells that count: class 2, BCE 5, dice 5 in the defaults."""
    p = [1 / (1 + math.exp(-x)) for x in logits]
    bce = -sum(y * math.log(q) + (1 - y) * math.log(1 - q) for q, y in zip(p, target, strict=True)) / len(p)
    both = sum(q * y for q, y in zip(p, target, strict=True))
    dice = 1 - (2 * both + 1) / (sum(p) + sum(target) + 1)
    return weights[1] * bce + weights[2] * dice - weights[0] * affinity


def plain_costs(
    group: tuple[torch.Tensor, ...], valid: torch.Tensor, weights: tuple[float, float, float]
) -> torch.Tensor:
    """The costs of all pairs. Shape: (B, Q, T)."""
    affinity, masks, targets = (part.double().tolist() for part in group)
    return torch.tensor(
        [
            [
                [
                    plain_cost(
                        affinity[b][q][t],
                        [x for x, keep in zip(masks[b][q], valid[b].tolist(), strict=True) if keep],
                        [y for y, keep in zip(targets[b][t], valid[b].tolist(), strict=True) if keep],
                        weights,
                    )
                    for t in range(len(targets[b]))
                ]
                for q in range(len(masks[b]))
            ]
            for b in range(len(masks))
        ]
    ).reshape(len(masks), len(masks[0]), -1)
