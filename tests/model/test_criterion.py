"""Losses against plain loops; each group learns from its own targets only."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.model.criterion import Matching, SplitCriterion, Targets
from split_matching.model.match_statistics import match_statistics
from split_matching.model.query_decoder import LayerOutputs, QueryOutput
from tests.model.layer_by_layer import terms_layer_by_layer
from tests.model.plain_costs import best_pairs, plain_costs

DECODER = DecoderConfig(dim=8, heads=2, seen_queries=4, candidate_queries=3)
CLASSES, WIDTH, SIDE = 5, 6, 4


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def output(batch: int = 2, seed: int = 0) -> QueryOutput:
    g = torch.Generator().manual_seed(seed)
    queries = DECODER.seen_queries + DECODER.candidate_queries
    return QueryOutput(
        unit(batch, queries, WIDTH, seed=seed).requires_grad_(),
        torch.randn(batch, queries, generator=g).requires_grad_(),
        torch.randn(batch, queries, generator=torch.Generator().manual_seed(seed + 50)).requires_grad_(),
        torch.randn(batch, queries, SIDE, SIDE, generator=g).requires_grad_(),
    )


def stack(*layers: QueryOutput) -> LayerOutputs:
    """All layers together; pixels are unit vectors, so the kernels are the masks."""
    names = ("embeddings", "no_object", "quality")
    queries = [torch.stack([getattr(layer, name) for layer in layers], 1) for name in names]
    kernels = torch.stack([layer.masks.flatten(2) for layer in layers], 1)
    pixels = torch.eye(SIDE * SIDE).unflatten(1, (SIDE, SIDE)).expand(len(kernels), -1, -1, -1)
    return LayerOutputs(*queries, kernels, pixels)


def targets(seen: tuple[int, ...] = (2, 1), regions: tuple[int, ...] = (2, 3), seed: int = 0) -> Targets:
    g = torch.Generator().manual_seed(seed)
    batch, cells = len(seen), SIDE * SIDE
    return Targets(
        torch.randint(CLASSES, (batch, max(seen)), generator=g),
        (torch.rand(batch, max(seen), cells, generator=g) > 0.5).float(),
        seen,
        unit(batch, max(regions), WIDTH, seed=seed + 1),
        (torch.rand(batch, max(regions), cells, generator=g) > 0.5).float(),
        regions,
        torch.ones(batch, cells),
    )


def criterion(**train: object) -> SplitCriterion:
    return SplitCriterion(TrainConfig(**train), DECODER, unit(CLASSES, WIDTH, seed=9), clip_scale=12.5)


@pytest.mark.parametrize(("seen", "regions"), [((0, 0), (0, 0)), ((1, 0), (0, 2)), ((2, 2), (0, 0)), ((6, 1), (5, 1))])
def test_images_without_targets_train_without_nan(seen: tuple[int, ...], regions: tuple[int, ...]) -> None:
    prediction = output()
    terms = criterion()(stack(prediction), targets(seen, regions))
    assert all(torch.isfinite(value) for value in terms.values())
    terms["loss"].backward()
    for tensor in vars(prediction).values():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()


def test_statistics_of_matches_by_hand() -> None:
    """Three seen queries and a candidate on 16 cells; whole and half masks. 0 and a coverage of a half are outside."""
    nothing, half, other = torch.zeros(16), torch.arange(16) < 8, torch.arange(16) % 2 == 0
    drawn = torch.stack([torch.stack([nothing, half, nothing, nothing]), torch.stack([nothing + 1, half, half, half])])
    masks = (2 * drawn - 1).unflatten(2, (4, 4))  # (2, 4, 4, 4): logits of -1 and 1
    masks[1, 3] = half.unflatten(0, (4, 4)) * 1.0  # 0 and 1
    wanted = replace(
        targets((1, 2), (3, 1)),
        seen_masks=torch.stack([torch.stack([other * 1.0, nothing]), torch.stack([nothing, nothing + 1])]),
        region_masks=torch.stack([torch.stack([nothing, half * 1.0, nothing]), torch.stack([0.5 + half / 2] * 3)]),
    )
    one, first = np.array([0]), np.array([1])
    probability, cosine = torch.zeros(2, 3, 2), torch.zeros(2, 1, 3)
    probability[0, 1, 0], probability[1, 0, 1], cosine[0, 0, 1], cosine[1, 0, 0] = 0.2, 0.7, 0.3, -0.1
    matching = Matching(
        torch.zeros(2, 3, 6), probability, cosine, [(first, one), (one, first)], [(one, first), (one, one)]
    )
    outputs = stack(QueryOutput(torch.zeros(2, 4, 1), torch.zeros(2, 4), torch.zeros(2, 4), masks))
    assert match_statistics(matching, outputs, wanted) == {
        "images": 2,
        "seen_score": 0.45,
        "seen_iou": 0.6667,  # 4 / 12 and 1
        "seen_queries": [1, 1, 0],
        "candidate_without_query": 2,
        "candidate_score": 0.1,
        "candidate_iou": 0.5,  # 0 and 1
        "candidate_queries": [2],
    }
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    matching = Matching(matching.logits, probability, cosine, [none, none], [none, none])
    assert match_statistics(matching, outputs, wanted) == {"images": 2, "candidate_without_query": 2}


@pytest.mark.parametrize("group", ["seen", "candidate"])
def test_gradients_of_a_group_come_from_its_own_loss(group: str) -> None:
    prediction = output()
    terms = criterion()(stack(prediction), targets())
    sum(value for name, value in terms.items() if name.startswith(group)).backward()
    split = DECODER.seen_queries
    own, other = (slice(split), slice(split, None)) if group == "seen" else (slice(split, None), slice(split))
    for tensor in (prediction.embeddings, prediction.masks):
        assert tensor.grad[:, own].abs().sum() > 0
        assert tensor.grad[:, other].abs().sum() == 0


def test_unmatched_candidates_get_no_gradient_at_all() -> None:
    prediction = output(batch=1)
    criterion()(stack(prediction), targets((1,), (1,)))["loss"].backward()
    candidates = slice(DECODER.seen_queries, None)
    moved = prediction.embeddings.grad[0, candidates].abs().sum(1) + prediction.masks.grad[0, candidates].abs().sum(
        (1, 2)
    )
    assert (moved > 0).sum() == 1
    assert prediction.no_object.grad[0, candidates].abs().sum() == 0
    criterion(loss_quality=1.0)(stack(prediction), targets((1,), (1,)))["candidate_quality"].backward()
    assert (prediction.quality.grad[0] != 0).tolist() == [False] * 4 + (moved > 0).tolist()


def plain_pairs(
    affinity: torch.Tensor, masks: torch.Tensor, wanted: torch.Tensor, counts: tuple[int, ...], valid: torch.Tensor
) -> list[tuple[int, int, int]]:
    """Image, query and target of all matches of a group, by trying all; costs are the defaults 2, 5 and 5."""
    costs = plain_costs((affinity, masks, wanted), valid, (2.0, 5.0, 5.0))
    return [(b, q, t) for b, count in enumerate(counts) for q, t in best_pairs(costs[b, :, :count])]


def plain_mask_terms(
    pairs: list[tuple[int, int, int]], masks: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor
) -> tuple[float, float]:
    """Mean BCE and dice of the matches, over cells that count."""
    bce = dice = 0.0
    for b, q, t in pairs:
        keep = valid[b] > 0
        p, y = masks[b, q][keep].double().sigmoid(), wanted[b, t][keep].double()
        bce += F.binary_cross_entropy(p, y).item()
        dice += (1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)).item()
    return bce / max(1, len(pairs)), dice / max(1, len(pairs))


def plain_seen_terms(output: QueryOutput, wanted: Targets, text: torch.Tensor, no_object: float) -> dict[str, float]:
    masks = output.masks.flatten(2)[:, :4]
    logits = torch.cat([30 * output.embeddings[:, :4] @ text.T, output.no_object[:, :4, None]], 2)
    share = logits.softmax(-1)
    labels = wanted.seen_labels.tolist()
    affinity = torch.stack([share[b][:, labels[b]] for b in range(len(labels))])
    pairs = plain_pairs(affinity, masks, wanted.seen_masks, wanted.seen_counts, wanted.valid)
    matched = {(b, q): labels[b][t] for b, q, t in pairs}
    total = weights = 0.0
    for b in range(len(labels)):
        for q in range(4):
            weight = 1.0 if (b, q) in matched else no_object
            total -= weight * math.log(share[b, q, matched.get((b, q), CLASSES)])
            weights += weight
    mask, dice = plain_mask_terms(pairs, masks, wanted.seen_masks, wanted.valid)
    return {"seen_class": total / max(1, weights), "seen_mask": mask, "seen_dice": dice}


def plain_candidate_terms(output: QueryOutput, wanted: Targets, temperature: float) -> dict[str, float]:
    """With the default of `nce_alike`, 0.85 of the largest squared distance between matched regions."""
    embeddings, masks = output.embeddings[:, 4:], output.masks.flatten(2)[:, 4:]
    cosine = torch.einsum("bqd,brd->bqr", embeddings, wanted.region_embeddings)
    pairs = plain_pairs(cosine, masks, wanted.region_masks, wanted.region_counts, wanted.valid)
    regions = [wanted.region_embeddings[b, t] for b, _, t in pairs]
    nce = quality = 0.0
    near = 0.15 * max([float(((one - other) ** 2).sum()) for one in regions for other in regions], default=0.0)
    for own, (b, q, _) in zip(regions, pairs, strict=True):
        others = [other for other in regions if other is own or float(((own - other) ** 2).sum()) > near]
        total = sum(math.exp(float(embeddings[b, q] @ other) / temperature) for other in others)
        nce += math.log(total) - float(embeddings[b, q] @ own) / temperature
    for b, q, t in pairs:
        inside = wanted.valid[b] > 0
        drawn, true = masks[b, q][inside] > 0, wanted.region_masks[b, t][inside] > 0.5
        iou = float((drawn & true).sum() / (drawn | true).sum())
        expected = float(output.quality[b, 4 + q].sigmoid())
        quality -= iou * math.log(expected) + (1 - iou) * math.log(1 - expected)
    mask, dice = plain_mask_terms(pairs, masks, wanted.region_masks, wanted.valid)
    count = max(1, len(pairs))
    return {
        "candidate_cosine": sum(1 - cosine[pair].item() for pair in pairs) / count,
        "candidate_nce": nce / count,
        "candidate_mask": mask,
        "candidate_dice": dice,
        "candidate_quality": quality / count,
    }


@pytest.mark.parametrize(
    ("seen", "regions"), [((2, 1), (2, 3)), ((1, 0), (0, 1)), ((0, 0), (0, 0)), ((4, 3), (3, 3)), ((6, 2), (5, 4))]
)
def test_all_terms_equal_plain_loops(seen: tuple[int, ...], regions: tuple[int, ...]) -> None:
    """Few and many matches; without any, and with less than one of weight in all, the normalisers are 1."""
    prediction, wanted = output(), targets(seen, regions)
    wanted.valid[1, 9:] = 0
    prediction = QueryOutput(*(value.detach() for value in vars(prediction).values()))
    for temperature in (None, 0.2):
        loss = criterion(no_object=0.1, nce_temperature=temperature)
        expected = plain_seen_terms(prediction, wanted, loss.text, 0.1)
        expected |= plain_candidate_terms(prediction, wanted, temperature or 0.08)  # that of CLIP
        terms = {name: value.item() for name, value in loss(stack(prediction), wanted).items() if name != "loss"}
        assert terms == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_loss_is_the_weighted_sum_of_the_terms() -> None:
    weights = {"loss_class": 2, "loss_mask": 3, "loss_dice": 5, "loss_cosine": 7, "loss_nce": 11, "loss_quality": 17}
    weights["candidate_weight"] = 13
    terms = {name: value.item() for name, value in criterion(**weights)(stack(output()), targets()).items()}
    seen = 2 * terms["seen_class"] + 3 * terms["seen_mask"] + 5 * terms["seen_dice"]
    candidate = 7 * terms["candidate_cosine"] + 11 * terms["candidate_nce"]
    candidate += 3 * terms["candidate_mask"] + 5 * terms["candidate_dice"] + 17 * terms["candidate_quality"]
    assert terms["loss"] == pytest.approx(seen + 13 * candidate, rel=1e-5)


def test_single_matching_uses_every_query_for_seen_classes() -> None:
    prediction = output()
    terms = criterion(matching="single")(stack(prediction), targets())
    assert terms["candidate_mask"].item() == 0 and terms["candidate_cosine"].item() == 0
    terms["loss"].backward()
    assert prediction.no_object.grad[:, DECODER.seen_queries :].abs().sum() > 0


def test_deep_supervision_is_the_mean_over_layers() -> None:
    layers = [output(seed=s) for s in (0, 1, 2)]
    together = criterion()(stack(*layers), targets())["loss"].item()
    single = [criterion()(stack(layer), targets())["loss"].item() for layer in layers]
    assert together == pytest.approx(sum(single) / 3, rel=1e-5)
    last_only = criterion(deep_supervision=False)(stack(*layers), targets())["loss"].item()
    assert last_only == pytest.approx(single[2], rel=1e-5)


OWN_COSTS = {"cost_candidate_mask": 0.0, "cost_candidate_dice": 0.5, "cost_mask": 1.0}


@pytest.mark.parametrize("settings", [{}, {"matching": "single"}, OWN_COSTS])
@pytest.mark.parametrize(("seen", "regions"), [((2, 1), (2, 3)), ((0, 0), (0, 0)), ((1, 0), (0, 2)), ((6, 2), (5, 4))])
def test_all_layers_at_once_equal_layer_by_layer(
    seen: tuple[int, ...], regions: tuple[int, ...], settings: dict[str, Any]
) -> None:
    """Terms and gradients, also with padding, and with more targets than queries; to 1e-6 of their size."""
    loss, wanted = criterion(**settings), targets(seen, regions)
    wanted.valid[1, 9:] = 0
    found, expected = ([output(seed=s) for s in (0, 1, 2)] for _ in range(2))
    terms, plain = loss(stack(*found), wanted), terms_layer_by_layer(loss, expected, wanted)
    assert terms.keys() == plain.keys()
    for name, value in plain.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
    terms["loss"].backward()
    plain["loss"].backward()
    for one, other in zip(found, expected, strict=True):
        for name in vars(one):
            assert torch.allclose(getattr(one, name).grad, getattr(other, name).grad, rtol=1e-5, atol=1e-6), name
