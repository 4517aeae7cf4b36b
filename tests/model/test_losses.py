"""Loss terms of masks and embeddings against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from split_matching.model.losses import mask_losses, nce_loss, quality_loss


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_mask_losses_equal_a_plain_loop_and_skip_padding() -> None:
    g = torch.Generator().manual_seed(3)
    masks, wanted = torch.randn(3, 8, generator=g), torch.rand(3, 8, generator=g)
    valid = torch.ones(3, 8)
    valid[1, 5:] = 0
    bce, dice = mask_losses(masks, wanted, valid)
    for i, count in enumerate((8, 5, 8)):
        x, t = masks[i, :count], wanted[i, :count]
        p = x.sigmoid()
        assert bce[i].item() == pytest.approx(F.binary_cross_entropy(p, t).item(), rel=1e-4)
        assert dice[i].item() == pytest.approx((1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)).item(), rel=1e-4)


def test_mask_losses_of_one_cell_and_of_none() -> None:
    one = mask_losses(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[1.0, 0.0]]))
    assert [term.item() for term in one] == pytest.approx([math.log(2), 1 - (2 * 0.5 + 1) / (0.5 + 1 + 1)])
    none = mask_losses(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2))
    assert [term.item() for term in none] == [0, 0]


def test_mask_losses_of_images_with_several_masks_are_those_of_each_mask() -> None:
    g = torch.Generator().manual_seed(5)
    masks, wanted = torch.randn(2, 3, 5, generator=g), torch.rand(2, 3, 5, generator=g)
    valid = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])[:, None]  # one row an image
    together = mask_losses(masks, wanted, valid)
    for image in range(2):
        alone = mask_losses(masks[image], wanted[image], valid[image].expand(3, 5))
        assert [term[image].tolist() for term in together] == [pytest.approx(term.tolist()) for term in alone]


def test_quality_is_the_cross_entropy_with_the_iou() -> None:
    """Covered are cells 0 and 2: overlap 1 + 0.5, union 2 + 2.5 - 1.5, so the IoU is 0.5; of nothing it is 0."""
    masks, wanted = torch.tensor([[0.5, -1, 3, 4], [-1, 0, -1, -1]]), torch.tensor([[1.0, 1, 0.5, 1], [0, 0, 0, 0]])
    found = quality_loss(torch.tensor([0.3, 0.3]), masks, wanted, torch.tensor([1.0, 1, 1, 0]))
    yes, no = -math.log(1 / (1 + math.exp(-0.3))), -math.log(1 / (1 + math.exp(0.3)))
    assert found.tolist() == pytest.approx([0.5 * yes + 0.5 * no, no])


def test_quality_of_images_with_several_masks_is_that_of_each_mask() -> None:
    g = torch.Generator().manual_seed(6)
    masks, wanted = torch.randn(2, 3, 5, generator=g), torch.rand(2, 3, 5, generator=g)
    valid = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])[:, None]  # one row an image
    quality = torch.randn(2, 3, generator=g)
    together = quality_loss(quality, masks, wanted, valid)
    for image in range(2):
        alone = quality_loss(quality[image], masks[image], wanted[image], valid[image].expand(3, 5))
        assert together[image].tolist() == pytest.approx(alone.tolist())


def test_nce_leaves_out_regions_that_show_the_same() -> None:
    """The first two regions are close, measured by the largest distance, with or without a component that all share."""
    rng = torch.Generator().manual_seed(4)
    parts = F.normalize(torch.tensor([[1.0, 0, 0], [0.95, 0.3, 0], [-1.0, 0.2, 0.3]]), dim=1)
    for shared in (0.0, 0.7):
        target = F.normalize(torch.cat([(1 - shared) ** 0.5 * parts, torch.full((3, 1), shared**0.5)], 1), dim=1)
        predicted = F.normalize(torch.randn(3, 4, generator=rng), dim=1)
        logits = predicted @ target.T / 0.1
        expected = -(logits[0, 0] - torch.logsumexp(logits[0, [0, 2]], 0))
        expected = expected - (logits[1, 1] - torch.logsumexp(logits[1, [1, 2]], 0)) - F.log_softmax(logits[2], 0)[2]
        assert nce_loss(predicted, target, 0.1, 0.9).item() == pytest.approx(expected.item(), rel=1e-4)


def test_nce_measures_by_the_most_distant_regions() -> None:
    """Cosines -1 and 0: distances of 2 and 1, so at 0.5 the middle region is alike both others, and at 0.51 none."""
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    alone = [math.log(1 + math.exp(-2)), 0.0, math.log(1 + math.exp(-2))]
    assert nce_loss(target, target, 1.0, 0.5).item() == pytest.approx(sum(alone))
    both = -F.log_softmax(target @ target.T, 1).diag().sum()
    assert nce_loss(target, target, 1.0, 0.51).item() == pytest.approx(both.item())
    assert nce_loss(target[:1], target[:1], 1.0, 0.5).item() == 0
    assert nce_loss(target[:0], target[:0], 1.0, 0.5).item() == 0


def test_nce_takes_negatives_from_all_processes() -> None:
    """Of three regions, the last two are this process's own."""
    pool = torch.eye(3)
    loss = nce_loss(pool[1:], pool[1:], 0.5, 0.9, pool, 1)
    assert loss.item() == pytest.approx(2 * math.log(1 + 2 * math.exp(-2)))
