"""From queries to class scores, against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from split_matching.model.query_decoder import QueryOutput
from split_matching.model.votes import (
    candidate_confidence,
    fuse,
    group_weights,
    normalise_scores,
    query_probabilities,
)


def test_probabilities_equal_a_plain_loop() -> None:
    g = torch.Generator().manual_seed(1)
    embeddings = F.normalize(torch.randn(2, 9, 10, generator=g), dim=-1)
    output = QueryOutput(embeddings, torch.randn(2, 9, generator=g), torch.zeros(2, 9), torch.zeros(2, 9, 1, 1))
    text = F.normalize(torch.randn(7, 10, generator=torch.Generator().manual_seed(3)), dim=-1)
    got = query_probabilities(output, text, 5, (20.0, 70.0))
    for b in range(2):
        for q in range(9):
            logits = (20.0 if q < 5 else 70.0) * output.embeddings[b, q] @ text.T
            knows_nothing = torch.cat([logits, output.no_object[b, q : q + 1]]).softmax(0)[:-1]
            assert torch.allclose(got[b, q], knows_nothing if q < 5 else logits.softmax(0), atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "mask", "quality", "both"])
def test_confidence_equals_a_plain_loop(kind: str) -> None:
    g = torch.Generator().manual_seed(2)
    masks, quality = 2 * torch.randn(2, 3, 4, 5, generator=g), torch.randn(2, 3, generator=g)
    masks[1, 2] = masks[1, 1] = -1  # a query that draws nothing
    masks[1, 1, 3, 4], masks[0, 0, 0, 0] = 2, 0  # one that draws a single cell; a logit of 0 draws nothing
    output = QueryOutput(torch.zeros(2, 3, 1), torch.zeros(2, 3), quality, masks)
    found = candidate_confidence(output, kind)
    for b in range(2):
        for q in range(3):
            drawn = [1 / (1 + math.exp(-value)) for value in masks[b, q].flatten().tolist() if value > 0]
            sure = sum(drawn) / max(1, len(drawn)) if kind in ("mask", "both") else 1.0
            expects = 1 / (1 + math.exp(-quality[b, q])) if kind in ("quality", "both") else 1.0
            assert found[b, q].item() == pytest.approx(sure * expects, rel=1e-5)


def test_votes_of_groups() -> None:
    assert torch.equal(group_weights(2, 5, 0.3, torch.device("cpu")), torch.tensor([[1.0], [1.0], [0.3], [0.3], [0.3]]))


def test_fusion_is_a_geometric_mean_that_keeps_the_vote() -> None:
    own = torch.tensor([[[0.2, 0.1, 0.1], [0.5, 0.3, 0.2]]])
    named = torch.tensor([[[0.1, 0.8, 0.1], [torch.nan] * 3]])
    fused = fuse(own, named, 0.5)
    expected = torch.tensor([(0.5 * 0.1) ** 0.5, (0.25 * 0.8) ** 0.5, (0.25 * 0.1) ** 0.5])
    assert torch.allclose(fused[0, 0], 0.4 * expected / expected.sum(), atol=1e-6)
    assert torch.equal(fused[0, 1], own[0, 1])
    assert torch.allclose(fuse(own, named, 0.0)[0, 0], own[0, 0], atol=1e-6)
    assert torch.allclose(fuse(own, named, 1.0)[0, 0], 0.4 * named[0, 0], atol=1e-6)


def test_fusion_is_of_shares_whatever_the_total() -> None:
    own, named = torch.tensor([[[0.04, 0.01]]]), torch.tensor([[[0.5, 0.5]]])
    assert fuse(own, named, 0.5)[0, 0].tolist() == pytest.approx([0.05 * 2 / 3, 0.05 / 3])
    nothing = fuse(torch.zeros(1, 1, 2), named, 0.5)
    assert nothing.tolist() == [[[0, 0]]]
    certain = fuse(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), 0.5)
    assert certain[0, 0].tolist() == pytest.approx([0.5, 0.5]), "no share counts as less than 1e-9"
    few = fuse(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]]), 0.5)[0, 0, 1].item()
    assert few == pytest.approx(math.sqrt(1e-9) / (1 + math.sqrt(1e-9)), rel=1e-3)


def test_scores_are_shares_of_each_cell() -> None:
    scores = torch.tensor([[[[3.0, 0.0]], [[1.0, 0.0]]]])
    assert normalise_scores(scores).tolist() == [[[[0.75, 0.0]], [[0.25, 0.0]]]]
