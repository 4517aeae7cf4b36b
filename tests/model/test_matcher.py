"""Split matching against brute force, and its independence properties."""

import itertools
import math

import numpy as np
import pytest
import torch

from split_matching.model.matcher import CostWeights, NotFiniteError, SplitMatcher, assign, flatten, mask_costs
from tests.model.plain_costs import best_pairs, plain_costs


def random_group(batch: int, queries: int, targets: int, cells: int, seed: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    affinity = torch.rand(batch, queries, targets, generator=g)
    masks = torch.randn(batch, queries, cells, generator=g) * 3
    return affinity, masks, (torch.rand(batch, targets, cells, generator=g) > 0.5).float()


Weights = tuple[float, float, float]
"""Of the class term, of BCE and of dice."""


def matcher_of(weights: Weights) -> SplitMatcher:
    """With the same weights for both groups."""
    return SplitMatcher(CostWeights(*weights), CostWeights(*weights))


WEIGHTS: list[Weights] = [(2.0, 5.0, 5.0), (20.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_cost_is_the_weighted_sum_of_plain_terms(weights: Weights) -> None:
    group = random_group(2, 4, 3, 12, 9)
    valid = torch.ones(2, 12)
    valid[1, 8:] = 0
    found = SplitMatcher.cost(CostWeights(*weights), *group, valid)
    assert torch.allclose(found, plain_costs(group, valid, weights), atol=2e-4)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("queries", "targets"), [(4, 4), (6, 3), (3, 5), (1, 1), (5, 1), (4, 0)])
def test_both_groups_are_optimal(queries: int, targets: int, weights: Weights) -> None:
    """Against brute force over costs in plain numbers, not those of the matcher."""
    seen, candidate = random_group(2, queries, targets, 20, 0), random_group(2, queries + 1, targets, 20, 1)
    valid = torch.ones(2, 20)
    indices = matcher_of(weights)(seen, candidate, valid, ([targets] * 2, [targets] * 2))
    for group, pairs in zip((seen, candidate), indices, strict=True):
        for block, (rows, cols) in zip(plain_costs(group, valid, weights), pairs, strict=True):
            assert len(rows) == min(block.shape)
            assert len(set(rows.tolist())) == len(rows) and len(set(cols.tolist())) == len(cols)
            if len(rows):
                best = sum(block[pair].item() for pair in best_pairs(block))
                assert block[rows, cols].sum().item() == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("group", ["seen", "candidate"])
def test_of_equal_masks_the_query_of_the_class_gets_the_target(group: str) -> None:
    """The paper matches by class similarity plus mask consistency: here only the class can decide."""
    masks = torch.tensor([[[3.0, -3.0]] * 3])
    affinity = torch.tensor([[[0.2, 0.1], [0.1, 0.9], [0.7, 0.3]]])  # query 2 is of class 0, query 1 of class 1
    targets = torch.tensor([[[1.0, 0.0]] * 2])
    other = torch.zeros(1, 1, 0), torch.zeros(1, 1, 2), torch.zeros(1, 0, 2)
    groups = ((affinity, masks, targets), other) if group == "seen" else (other, (affinity, masks, targets))
    counts = ([2], [0]) if group == "seen" else ([0], [2])
    found = matcher_of((2, 5, 5))(*groups, torch.ones(1, 2), counts)[group == "candidate"][0]
    assert dict(zip(*(side.tolist() for side in found), strict=True)) == {1: 1, 2: 0}


@pytest.mark.parametrize("by_masks", [CostWeights(0.0, 1.0, 0.0), CostWeights(0.0, 0.0, 1.0)])
@pytest.mark.parametrize("by_class", [CostWeights(1.0, 0.0, 0.0), CostWeights(100.0, 1.0, 1.0)])
def test_each_group_has_its_own_weights(by_masks: CostWeights, by_class: CostWeights) -> None:
    """Masks speak for query 0, classes for query 1."""
    masks = torch.tensor([[[3.0, -3.0], [-3.0, 3.0]]])
    group = torch.tensor([[[0.0], [1.0]]]), masks, torch.tensor([[[1.0, 0.0]]])
    for weights, taken in (((by_masks, by_class), [0, 1]), ((by_class, by_masks), [1, 0])):
        found = SplitMatcher(*weights)(group, group, torch.ones(1, 2), ([1], [1]))
        assert [pairs[0][0].item() for pairs in found] == taken


@pytest.mark.parametrize("weights", [(2.0, 5.0, 5.0), (2.0, 5.0, 0.0), (2.0, 0.0, 5.0)])
def test_of_equal_classes_the_query_of_the_mask_gets_the_target(weights: Weights) -> None:
    masks = torch.tensor([[[3.0, 3.0, -3.0, -3.0], [-3.0, -3.0, 3.0, 3.0]]])
    targets = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]])
    group = torch.full((1, 2, 2), 0.5), masks, targets
    found, _ = matcher_of(weights)(group, group, torch.ones(1, 4), ([2], [2]))
    assert found[0][1].tolist() == [1, 0]


def test_costs_equal_a_plain_loop() -> None:
    _, masks, targets = random_group(2, 3, 4, 10, 2)
    valid = torch.ones(2, 10)
    valid[1, 6:] = 0
    bce, dice = mask_costs(masks, targets, valid)
    for b, q, t in itertools.product(range(2), range(3), range(4)):
        keep = valid[b] > 0
        x, y = masks[b, q][keep], targets[b, t][keep]
        p = x.sigmoid()
        assert bce[b, q, t].item() == pytest.approx(-(y * p.log() + (1 - y) * (1 - p).log()).mean().item(), abs=1e-4)
        assert dice[b, q, t].item() == pytest.approx(
            (1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)).item(), abs=1e-5
        )


def test_batched_equals_single_and_padding_does_not_count() -> None:
    matcher = matcher_of((2, 5, 5))
    seen, candidate = random_group(3, 6, 4, 16, 3), random_group(3, 5, 3, 16, 4)
    valid = (torch.rand(3, 16, generator=torch.Generator().manual_seed(5)) > 0.3).float()
    counts = ([4, 2, 0], [3, 0, 1])
    together = matcher(seen, candidate, valid, counts)
    for i in range(3):
        alone = matcher(
            (seen[0][i : i + 1, :, : counts[0][i]], seen[1][i : i + 1], seen[2][i : i + 1, : counts[0][i]]),
            (
                candidate[0][i : i + 1, :, : counts[1][i]],
                candidate[1][i : i + 1],
                candidate[2][i : i + 1, : counts[1][i]],
            ),
            valid[i : i + 1],
            ([counts[0][i]], [counts[1][i]]),
        )
        for group in range(2):
            assert np.array_equal(together[group][i][0], alone[group][0][0])
            assert np.array_equal(together[group][i][1], alone[group][0][1])


def test_groups_do_not_see_each_other() -> None:
    matcher = matcher_of((2, 5, 5))
    seen = random_group(2, 6, 3, 16, 6)
    valid = torch.ones(2, 16)
    results = [matcher(seen, random_group(2, 5, 4, 16, seed), valid, ([3, 3], [4, 4]))[0] for seed in (7, 8)]
    for first, second in zip(*results, strict=True):
        assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def test_matches_in_one_row_name_their_image() -> None:
    pairs = (([3, 5], [1, 0]), ([], []), ([2], [4]))
    assert flatten([(np.array(q, np.int64), np.array(t, np.int64)) for q, t in pairs]).tolist() == [
        [0, 0, 2],
        [3, 5, 2],
        [1, 0, 4],
    ]


def test_costs_of_one_cell_and_of_none() -> None:
    """By hand: a logit of 0 is a share of a half."""
    bce, dice = mask_costs(torch.zeros(2, 1, 3), torch.ones(2, 1, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert bce.flatten().tolist() == pytest.approx([math.log(2), 0])
    assert dice.flatten().tolist() == pytest.approx([1 - (2 * 0.5 + 1) / (0.5 + 1 + 1), 0])


def test_every_image_needs_its_count() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        assign(np.zeros((2, 1, 1), np.float32), [1])


def test_assign_ignores_padded_columns() -> None:
    cost = np.array([[[1.0, -100.0], [0.0, -100.0]]], np.float32)
    rows, cols = assign(cost, [1])[0]
    assert rows.tolist() == [1] and cols.tolist() == [0]


def test_mask_costs_of_certain_predictions_are_finite_and_right() -> None:
    logits = torch.tensor([[[-1e4, -60.0, -20.0, 0.0, 20.0, 60.0, 1e4]]])
    for value in (0.0, 1.0):
        target = torch.full((1, 1, 7), value)
        bce, dice = mask_costs(logits, target, torch.ones(1, 7))
        # beyond -80 the loss grows no further: it is certain enough
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits.double().clamp(min=-80), target.double())
        assert bce.isfinite().all() and dice.isfinite().all()
        assert bce.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-4)


def test_layers_side_by_side_are_matched_as_alone() -> None:
    """Three layers of 4 and of 3 queries, against the same targets."""
    groups = [
        [random_group(2, queries, 3, 12, seed + layer) for layer in range(3)] for queries, seed in ((4, 0), (3, 9))
    ]
    valid, counts, matcher = torch.ones(2, 12), ([3, 1], [2, 3]), matcher_of((2, 5, 5))
    together = [
        (torch.cat([g[0] for g in group], 1), torch.stack([g[1] for g in group], 1), group[0][2]) for group in groups
    ]
    found = matcher(*together, valid, counts, 3)
    for layer in range(3):
        alone = matcher(*((g[layer][0], g[layer][1], g[0][2]) for g in groups), valid, counts)
        for indices, single, queries in zip(found, alone, (4, 3), strict=True):
            for (query, target), (wanted, which) in zip(indices, single, strict=True):
                here = query // queries == layer
                assert np.array_equal(query[here] - layer * queries, wanted) and np.array_equal(target[here], which)


@pytest.mark.parametrize(("layer", "value"), [(0, math.nan), (2, math.inf)])
def test_costs_that_are_not_finite_name_their_layer(layer: int, value: float) -> None:
    affinity, masks, wanted = random_group(2, 6, 2, 4, 0)
    affinity[1, 2 * layer + 1, 0] = value
    nothing = torch.zeros(2, 0, 0), masks[:, :0], wanted[:, :0]
    with pytest.raises(NotFiniteError, match=f"layer {layer}"):
        matcher_of((2, 5, 5))((affinity, masks, wanted), nothing, torch.ones(2, 4), ([2, 2], [0, 0]), 3)
    alone = affinity[1:], masks[1:], wanted[1:]
    with pytest.raises(NotFiniteError, match=f"layer {layer}"):
        matcher_of((2, 5, 5))(alone, [part[1:] for part in nothing], torch.ones(1, 4), ([2], [0]), 3)
