"""Votes of queries and fusion with CLIP's own names, against plain loops and with hand-made masks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from split_matching.configs.settings import RegionsConfig
from split_matching.model.query_decoder import QueryOutput
from split_matching.stages.inference import fusion
from split_matching.stages.inference.decoder_scores import DecoderScorer
from split_matching.stages.inference.fusion import Fusion

SEEN = torch.tensor([True, False, True])


def config(**changes: Any) -> Any:
    evaluate = {"candidate_weight": 0.3, "group_classes": "all", "fusion": 0.0, "fusion_floor": 0.1}
    evaluate |= {"fusion_method": "crop", **changes}
    return SimpleNamespace(
        decoder=SimpleNamespace(temperature=4.0, seen_queries=2, candidate_queries=3),
        evaluate=SimpleNamespace(**evaluate),
        train=SimpleNamespace(matching=changes.get("matching", "split")),
        regions=RegionsConfig(),
        features=SimpleNamespace(variant="value"),
    )


@pytest.mark.parametrize("matching", ["split", "single"])
@pytest.mark.parametrize("classes", ["all", "own"])
def test_scores_are_the_votes_of_all_queries(matching: str, classes: str) -> None:
    g = torch.Generator().manual_seed(0)
    embeddings, text = (F.normalize(torch.randn(*shape, generator=g), dim=-1) for shape in ((2, 5, 6), (3, 6)))
    output = QueryOutput(embeddings, torch.randn(2, 5, generator=g), torch.randn(2, 5, 2, 4, generator=g))
    first = QueryOutput(*(torch.zeros_like(t) for t in (embeddings, output.no_object, output.masks)))
    settings = config(matching=matching, group_classes=classes)

    def decoder(maps: list[torch.Tensor], valid: torch.Tensor) -> list[QueryOutput]:
        assert valid.shape == (2, 1, 2) and valid.all()
        return [first, first, output]

    scorer = DecoderScorer(decoder, text, SEEN, settings, None)
    scores = scorer.score([torch.zeros(2, 1, 2, 6)], [])
    group = 5 if matching == "single" else 2  # single matching has one group, which has all classes
    for b, y, x in np.ndindex(2, 2, 4):
        votes = [0.0] * 3
        for q in range(5):
            logits = [4 * float(embeddings[b, q] @ text[c]) for c in range(3)]
            nothing = math.exp(output.no_object[b, q]) if q < group else 0.0
            total = sum(map(math.exp, logits)) + nothing
            covers = 1 / (1 + math.exp(-output.masks[b, q, y, x]))
            for c in range(3):
                weight = 1.0 if q < group else 0.3
                if classes == "own" and matching == "split" and bool(SEEN[c]) != (q < group):
                    weight = 0.0
                votes[c] += weight * math.exp(logits[c]) / total * covers
        assert scores[b, :, y, x].tolist() == pytest.approx([vote / sum(votes) for vote in votes], rel=1e-4)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The regions that CLIP is asked to name; it names each after the first text."""
    items: list[Any] = []

    def embed(clip: object, regions: list[Any], settings: RegionsConfig) -> list[torch.Tensor]:
        items.append((regions[0], settings.method))
        return [torch.tensor([[1.0, 0.0]] * len(regions[0].masks))]

    monkeypatch.setattr(fusion, "embed_regions", embed)
    return items


def masks_of(*counts: int) -> torch.Tensor:
    """Mask logits of one image that cover so many cells each; 0 is not yet covered. Shape: (1, Q, 3, 3)."""
    rows = [torch.tensor([1.0] * count + [0.0] * (9 - count)).reshape(3, 3) for count in counts]
    return torch.stack(rows)[None]


def read() -> NDArray[np.uint8]:
    return np.zeros((12, 12, 3), np.uint8)


def test_only_queries_that_show_something_are_named(shown: list[Any]) -> None:
    """Four cells are enough, three are not; a query whose vote is the floor has none to speak of."""
    shares = torch.tensor([[[0.25, 0.5]] * 2 + [[0.0625, 0.0625], [0.25, 0.25]]])
    made = Fusion(config(fusion=1.0, fusion_floor=0.125), None, torch.eye(2)).fuse(
        shares, masks_of(4, 3, 9, 5), [read], (6, 6)
    )
    [(item, method)] = shown
    assert item.masks.sum((1, 2)).tolist() == [4, 5] and method == "crop"
    assert item.dense.shape == (6, 6, 0)
    name = 1 / (1 + math.exp(-4))  # softmax of 4 and 0
    expected = [[0.75 * name, 0.75 * (1 - name)], [0.25, 0.5], [0.0625, 0.0625], [0.5 * name, 0.5 * (1 - name)]]
    for row, values in zip(made[0].tolist(), expected, strict=True):
        assert row == pytest.approx(values, rel=1e-4)


def test_scorer_mixes_with_clip_if_fusion_has_a_weight(shown: list[Any]) -> None:
    output = QueryOutput(torch.eye(2)[None, [0, 1, 1, 1, 1]], torch.zeros(1, 5), masks_of(9, 9, 9, 9, 9))
    first = QueryOutput(output.embeddings, output.no_object, -output.masks)
    text, maps = torch.eye(2), [torch.zeros(1, 6, 7, 2)]
    for weight in (0.5, 0.0):
        scorer = DecoderScorer(lambda maps, valid: [first, output], text, SEEN[:2], config(fusion=weight), None)
        scorer.score(maps, [read])
    [(item, _)] = shown
    assert item.dense.shape[:2] == (6, 7) and item.masks.all()


def test_nothing_is_asked_where_no_query_shows_anything(shown: list[Any]) -> None:
    shares = torch.tensor([[[0.25, 0.5]]])
    assert torch.equal(Fusion(config(fusion=1.0), None, torch.eye(2)).fuse(shares, masks_of(3), [read], (6, 6)), shares)
    assert shown == []


def test_mean_of_features_is_of_the_image_at_its_grid(shown: list[Any]) -> None:
    asked: list[Any] = []

    def preprocess(image: NDArray[np.uint8], height: int, width: int) -> torch.Tensor:
        asked.append((height, width))
        return torch.zeros(3, height, width)

    def dense(pixels: torch.Tensor, variant: str) -> Any:
        asked.append((tuple(pixels.shape), variant))
        return SimpleNamespace(dense=torch.ones(1, 6, 5, 2))

    clip = SimpleNamespace(patch=8, preprocess=preprocess, dense=dense)
    made = Fusion(config(fusion=1.0, fusion_method="mean"), clip, torch.eye(2))
    made.fuse(torch.tensor([[[0.25, 0.5]]]), masks_of(4), [read], (6, 5))
    assert asked == [(48, 40), ((1, 3, 48, 40), "value")]
    [(item, method)] = shown
    assert item.dense.shape == (6, 5, 2) and method == "mean"
