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

from split_matching.configs.settings import DecoderConfig, RegionsConfig
from split_matching.model.query_decoder import QueryOutput
from split_matching.stages.inference import fusion
from split_matching.stages.inference.decoder_scores import DecoderScorer
from split_matching.stages.inference.fusion import Fusion


def config(**changes: Any) -> Any:
    evaluate = {"candidate_weight": 0.3, "fusion": 0.0, "fusion_floor": 0.1}
    evaluate |= {"fusion_method": "crop", "candidate_temperature": None, "confidence": "none", **changes}
    return SimpleNamespace(
        decoder=DecoderConfig(temperature=4.0, seen_queries=2, candidate_queries=3),
        evaluate=SimpleNamespace(**evaluate),
        train=SimpleNamespace(matching=changes.get("matching", "split"), precision="auto"),
        regions=RegionsConfig(),
        features=SimpleNamespace(variant="value"),
    )


CLIP: Any = SimpleNamespace(patch=4, logit_scale=7.0)
"""Tokens of four pixels; its own scores have another temperature than those of the seen group."""


def predictor(output: QueryOutput) -> Any:
    """A decoder that predicts this at its last layer, and nothing before."""
    nothing = QueryOutput(*(torch.zeros_like(value) for value in vars(output).values()))
    return lambda maps, valid: [nothing, nothing, output]


def bilinear(values: torch.Tensor, y: float, x: float) -> float:
    """The value between four cells, whose centres are at whole numbers; beyond the outer ones nothing changes."""
    rows, cols = values.shape
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), cols - 1)
    top, left = min(int(y), rows - 2), min(int(x), cols - 2)
    down, right = y - top, x - left
    upper = values[top, left] * (1 - right) + values[top, left + 1] * right
    lower = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    return float(upper * (1 - down) + lower * down)


@pytest.mark.parametrize("matching", ["split", "single"])
@pytest.mark.parametrize(("scale", "confidence"), [(None, "quality"), (11.0, "none")])
def test_scores_are_the_votes_of_all_queries(matching: str, scale: float | None, confidence: str) -> None:
    """At every pixel that CLIP saw; between the cells of masks it is their logits that are interpolated.

    Candidates alone have a confidence: the seen group says "nothing" instead, and single matching has no candidates.
    """
    g = torch.Generator().manual_seed(0)
    embeddings, text = (F.normalize(torch.randn(*shape, generator=g), dim=-1) for shape in ((2, 5, 6), (3, 6)))
    no_object, masks = torch.randn(2, 5, generator=g), 3 * torch.randn(2, 5, 2, 4, generator=g)
    quality = torch.randn(2, 5, generator=g)
    output = QueryOutput(embeddings, no_object, quality, masks)
    settings = config(matching=matching, candidate_temperature=scale, confidence=confidence)
    scores = DecoderScorer(predictor(output), text, settings, CLIP).score([torch.zeros(2, 1, 2, 6)], [])
    assert scores.shape == (2, 3, 4, 8)
    group = 5 if matching == "single" else 2  # single matching has one group, which has all classes
    for b, y, x in [(0, 0, 0), (0, 1, 3), (1, 2, 4), (1, 3, 7)]:
        votes = [0.0] * 3
        for q in range(5):
            temperature = 4.0 if q < group else scale or 7.0
            logits = [temperature * float(embeddings[b, q] @ text[c]) for c in range(3)]
            nothing = math.exp(no_object[b, q]) if q < group else 0.0
            total = sum(map(math.exp, logits)) + nothing
            covers = 1 / (1 + math.exp(-bilinear(masks[b, q], (y + 0.5) / 2 - 0.5, (x + 0.5) / 2 - 0.5)))
            for c in range(3):
                weight = 1.0 if q < group else 0.3
                if confidence == "quality" and q >= group:
                    weight /= 1 + math.exp(-quality[b, q])
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
    made = Fusion(config(fusion=1.0, fusion_floor=0.125), CLIP, torch.eye(2)).fuse(
        shares, masks_of(4, 3, 9, 5), [read], (6, 6)
    )
    [(item, method)] = shown
    assert item.masks.sum((1, 2)).tolist() == [4, 5] and method == "crop"
    assert item.dense.shape == (6, 6, 0)
    name = 1 / (1 + math.exp(-7))  # softmax of 7, CLIP's scale, and 0
    expected = [[0.75 * name, 0.75 * (1 - name)], [0.25, 0.5], [0.0625, 0.0625], [0.5 * name, 0.5 * (1 - name)]]
    for row, values in zip(made[0].tolist(), expected, strict=True):
        assert row == pytest.approx(values, rel=1e-4)


def test_scorer_mixes_with_clip_if_fusion_has_a_weight(shown: list[Any]) -> None:
    nothing = torch.zeros(1, 5)
    output = QueryOutput(torch.eye(2)[None, [0, 1, 1, 1, 1]], nothing, nothing, masks_of(9, 9, 9, 9, 9))
    text, maps = torch.eye(2), [torch.zeros(1, 6, 7, 2)]
    for weight in (0.5, 0.0):
        scorer = DecoderScorer(predictor(output), text, config(fusion=weight), CLIP)
        scorer.score(maps, [read])
    [(item, _)] = shown
    assert item.dense.shape[:2] == (6, 7) and item.masks.all()


def test_nothing_is_asked_where_no_query_shows_anything(shown: list[Any]) -> None:
    shares = torch.tensor([[[0.25, 0.5]]])
    assert torch.equal(Fusion(config(fusion=1.0), CLIP, torch.eye(2)).fuse(shares, masks_of(3), [read], (6, 6)), shares)
    assert shown == []


def test_mean_of_features_is_of_the_image_at_its_grid(shown: list[Any]) -> None:
    asked: list[Any] = []

    def preprocess(image: NDArray[np.uint8], height: int, width: int) -> torch.Tensor:
        asked.append((height, width))
        return torch.zeros(3, height, width)

    def dense(pixels: torch.Tensor, variant: str) -> Any:
        asked.append((tuple(pixels.shape), variant))
        return SimpleNamespace(dense=torch.ones(1, 6, 5, 2))

    clip = SimpleNamespace(patch=8, logit_scale=7.0, preprocess=preprocess, dense=dense)
    made = Fusion(config(fusion=1.0, fusion_method="mean"), clip, torch.eye(2))
    made.fuse(torch.tensor([[[0.25, 0.5]]]), masks_of(4), [read], (6, 5))
    assert asked == [(48, 40), ((1, 3, 48, 40), "value")]
    [(item, method)] = shown
    assert item.dense.shape == (6, 5, 2) and method == "mean"
