"""Losses against plain loops; each group learns from its own targets only."""

import math

import pytest
import torch
import torch.nn.functional as F

from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.model.criterion import SplitCriterion, Targets
from split_matching.model.losses import mask_losses, nce_loss
from split_matching.model.query_decoder import QueryOutput

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
        torch.randn(batch, queries, SIDE, SIDE, generator=g).requires_grad_(),
    )


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
    return SplitCriterion(TrainConfig(**train), DECODER, unit(CLASSES, WIDTH, seed=9), alike=0.9)


@pytest.mark.parametrize(("seen", "regions"), [((0, 0), (0, 0)), ((1, 0), (0, 2)), ((2, 2), (0, 0)), ((6, 1), (5, 1))])
def test_images_without_targets_train_without_nan(seen: tuple[int, ...], regions: tuple[int, ...]) -> None:
    prediction = output()
    terms = criterion()([prediction], targets(seen, regions))
    assert all(torch.isfinite(value) for value in terms.values())
    terms["loss"].backward()
    for tensor in (prediction.embeddings, prediction.no_object, prediction.masks):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("group", ["seen", "candidate"])
def test_gradients_of_a_group_come_from_its_own_loss(group: str) -> None:
    prediction = output()
    terms = criterion()([prediction], targets())
    sum(value for name, value in terms.items() if name.startswith(group)).backward()
    split = DECODER.seen_queries
    own, other = (slice(split), slice(split, None)) if group == "seen" else (slice(split, None), slice(split))
    for tensor in (prediction.embeddings, prediction.masks):
        assert tensor.grad[:, own].abs().sum() > 0
        assert tensor.grad[:, other].abs().sum() == 0


def test_unmatched_candidates_get_no_gradient_at_all() -> None:
    prediction = output(batch=1)
    criterion()([prediction], targets((1,), (1,)))["loss"].backward()
    candidates = slice(DECODER.seen_queries, None)
    moved = prediction.embeddings.grad[0, candidates].abs().sum(1) + prediction.masks.grad[0, candidates].abs().sum(
        (1, 2)
    )
    assert (moved > 0).sum() == 1
    assert prediction.no_object.grad[0, candidates].abs().sum() == 0


def test_seen_class_term_equals_a_plain_loop() -> None:
    prediction, wanted = output(), targets()
    loss = criterion(no_object=0.1)
    logits = DECODER.temperature * prediction.embeddings[:, :4] @ loss.text.T
    logits = torch.cat([logits, prediction.no_object[:, :4, None]], 2)
    affinity = logits.softmax(-1).gather(2, wanted.seen_labels[:, None].expand(-1, 4, -1))
    cosine = prediction.embeddings[:, 4:] @ wanted.region_embeddings.transpose(1, 2)
    masks = prediction.masks.flatten(2)
    seen, candidate = loss.matcher(
        (affinity, masks[:, :4], wanted.seen_masks),
        (cosine, masks[:, 4:], wanted.region_masks),
        wanted.valid,
        (wanted.seen_counts, wanted.region_counts),
    )
    total = weights = 0.0
    for b in range(2):
        matched = dict(zip(seen[b][0].tolist(), seen[b][1].tolist(), strict=True))
        for q in range(4):
            label = int(wanted.seen_labels[b, matched[q]]) if q in matched else CLASSES
            weight = 1.0 if q in matched else 0.1
            total += -weight * math.log(logits[b, q].softmax(0)[label].item())
            weights += weight
    terms = loss([prediction], wanted)
    assert terms["seen_class"].item() == pytest.approx(total / weights, rel=1e-4)
    pairs = [(b, q, t) for b in range(2) for q, t in zip(*(x.tolist() for x in candidate[b]), strict=True)]
    expected = sum(1 - cosine[b, q, t].item() for b, q, t in pairs) / len(pairs)
    assert terms["candidate_cosine"].item() == pytest.approx(expected, rel=1e-4)


def test_mask_losses_equal_a_plain_loop_and_skip_padding() -> None:
    g = torch.Generator().manual_seed(3)
    masks, wanted = torch.randn(3, 8, generator=g), torch.rand(3, 8, generator=g)
    valid = torch.ones(3, 8)
    valid[1, 5:] = 0
    bce, dice = mask_losses(masks, wanted, valid, torch.tensor(2.0))
    expected_bce = expected_dice = 0.0
    for i, count in enumerate((8, 5, 8)):
        x, t = masks[i, :count], wanted[i, :count]
        p = x.sigmoid()
        expected_bce += F.binary_cross_entropy(p, t).item()
        expected_dice += (1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)).item()
    assert bce.item() == pytest.approx(expected_bce / 2, rel=1e-4)
    assert dice.item() == pytest.approx(expected_dice / 2, rel=1e-4)


def test_nce_leaves_out_regions_that_show_the_same() -> None:
    target = unit(3, WIDTH, seed=4)
    target[1] = F.normalize(target[0] + 0.01, dim=-1)  # nearly the first region
    predicted = unit(3, WIDTH, seed=5)
    logits = predicted @ target.T / 0.1
    expected = -(logits[0, 0] - torch.logsumexp(logits[0, [0, 2]], 0))
    expected = expected - (logits[1, 1] - torch.logsumexp(logits[1, [1, 2]], 0)) - F.log_softmax(logits[2], 0)[2]
    assert nce_loss(predicted, target, 0.1, 0.9).item() == pytest.approx(expected.item(), rel=1e-4)


def test_single_matching_uses_every_query_for_seen_classes() -> None:
    prediction = output()
    terms = criterion(matching="single")([prediction], targets())
    assert terms["candidate_mask"].item() == 0 and terms["candidate_cosine"].item() == 0
    terms["loss"].backward()
    assert prediction.no_object.grad[:, DECODER.seen_queries :].abs().sum() > 0


def test_deep_supervision_is_the_mean_over_layers() -> None:
    layers = [output(seed=s) for s in (0, 1)]
    both = criterion()(layers, targets())["loss"].item()
    single = [criterion()([layer], targets())["loss"].item() for layer in layers]
    assert both == pytest.approx(sum(single) / 2, rel=1e-5)
    last_only = criterion(deep_supervision=False)(layers, targets())["loss"].item()
    assert last_only == pytest.approx(single[1], rel=1e-5)
