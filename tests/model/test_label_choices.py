"""Labels for all gammas at once, against the slow way: every class at every pixel, and an argmax for each gamma."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from split_matching.model import label_choices
from split_matching.model.label_choices import choose_labels

GAMMAS = (-0.02, 0.0, 0.003, 0.01, 0.05, 2.0)


def slow_labels(scores: Tensor, seen: Tensor, gamma: float, height: int, width: int) -> NDArray[Any]:
    """All classes resampled, gamma subtracted from all seen ones, the first of the best ones taken."""
    full = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]
    return (full - gamma * seen[:, None, None].to(full.dtype)).argmax(0).numpy()


def example(classes: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores that sum to 1 at every cell, and which classes are seen: not the first ones alone."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(classes, height, width, generator=g)
    return scores / scores.sum(0), torch.rand(classes, generator=g) < 0.7


@pytest.mark.parametrize(
    ("classes", "have", "want"),
    [
        (24, (64, 64), (64, 64)),
        (21, (96, 128), (94, 125)),
        (171, (24, 32), (30, 47)),
        (5, (6, 7), (311, 203)),
        (9, (40, 50), (13, 50)),
        (9, (40, 50), (40, 17)),
        (7, (1, 5), (3, 9)),
        (7, (5, 1), (9, 1)),
        (3, (4, 6), (1, 1)),
    ],
)
def test_labels_with_every_gamma_are_those_of_the_slow_way(
    classes: int, have: tuple[int, int], want: tuple[int, int]
) -> None:
    scores, seen = example(classes, *have)
    choices = choose_labels(scores, seen, GAMMAS, *want)
    for place, gamma in enumerate(GAMMAS):
        assert np.array_equal(choices.labels(place), slow_labels(scores, seen, gamma, *want)), gamma
    assert choices.seen.dtype == choices.unseen.dtype == choices.labels(0).dtype == np.uint8


@pytest.mark.parametrize("strip", [1, 500, 7_000, 10**9])
def test_strips_change_nothing(strip: int) -> None:
    scores, seen = example(11, 20, 30)
    whole, parts = (choose_labels(scores, seen, GAMMAS, 97, 211, pixels) for pixels in (0, strip))
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert np.array_equal(one, other)


def test_a_gpu_works_on_all_classes_at_once_with_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = example(11, 20, 30)
    want = choose_labels(scores, seen, GAMMAS, 40, 70)
    monkeypatch.setattr(label_choices, "_best_on_cpu", label_choices._best)
    found = choose_labels(scores, seen, GAMMAS, 40, 70, 900)
    for one, other in zip(vars(want).values(), vars(found).values(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("way", ["_best_on_cpu", "_best"])
@pytest.mark.parametrize("value", [True, False])
def test_all_classes_may_be_of_one_group(value: bool, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_choices, "_best_on_cpu", getattr(label_choices, way))
    scores, _ = example(6, 5, 5)
    seen = torch.full((6,), value)
    choices = choose_labels(scores, seen, (0.0, 0.5), 8, 8)
    for place, gamma in enumerate((0.0, 0.5)):
        assert np.array_equal(choices.labels(place), slow_labels(scores, seen, gamma, 8, 8))


def test_of_equal_scores_the_first_class_is_chosen() -> None:
    """Within a group, and between the groups: 0.5 - 0.25 is 0.25 exactly."""
    scores = torch.tensor([0.25, 0.5, 0.5, 0.25, 0.125])[:, None, None]
    for seen, expected in [
        ([False, True, True, False, False], [1, 0, 0]),  # unseen class 0 is before seen class 1
        ([True, True, True, False, False], [1, 1, 3]),  # seen class 1 is before unseen class 3
    ]:
        choices = choose_labels(scores, torch.tensor(seen), (0.0, 0.25, 0.375), 1, 1)
        assert [choices.labels(place).item() for place in range(3)] == expected


def test_scores_are_resampled_between_the_centres_of_cells() -> None:
    """Two cells of 2 pixels each: pixels 1 and 2 are three quarters of their own cell's score."""
    scores = torch.tensor([[[1.0, 0.0]], [[0.3, 0.3]], [[0.0, 0.7]]])
    nothing = torch.tensor([False, False, False])
    # class 0: 1, 0.75, 0.25, 0; class 1: 0.3; class 2: 0, 0.175, 0.525, 0.7
    assert choose_labels(scores, nothing, (0.0,), 1, 4).labels(0).tolist() == [[0, 0, 2, 2]]
    scores[1] = 0.6
    assert choose_labels(scores, nothing, (0.0,), 1, 4).labels(0).tolist() == [[0, 0, 1, 2]]
