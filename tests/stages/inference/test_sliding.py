"""Sliding windows: where they lie, and how their scores are averaged."""

import numpy as np
import pytest
import torch

from split_matching.stages.inference.sliding import slide_scores, window_starts


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(512, 512, 426, [0]), (640, 512, 426, [0, 128]), (938, 512, 426, [0, 426]), (939, 512, 426, [0, 426, 427]),
     (300, 512, 426, [0]), (10, 4, 2, [0, 2, 4, 6])],
)  # fmt: skip
def test_windows_cover_and_the_last_ends_at_the_border(length, window, stride, starts) -> None:
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_averaging_equals_a_slow_loop(batch: int) -> None:
    size, window, stride = (23, 31), (9, 12), 5
    values = torch.rand(4, *size, generator=torch.manual_seed(0))
    asked: list[int] = []

    def score(corners):
        """A window's scores depend on where it lies, so that the average matters."""
        asked.append(len(corners))
        return torch.stack([values[:, y : y + 9, x : x + 12] * (1 + y + x) for y, x in corners])

    got = slide_scores(size, window, stride, batch, score)
    total, count = np.zeros((4, *size)), np.zeros(size)
    for y in (0, 5, 10, 14):
        for x in (0, 5, 10, 15, 19):
            for i in range(9):
                for j in range(12):
                    total[:, y + i, x + j] += values[:, y + i, x + j].numpy() * (1 + y + x)
                    count[y + i, x + j] += 1
    assert np.allclose(got, total / count, rtol=1e-5)
    assert max(asked) <= batch and sum(asked) == 20  # never more windows at once than a batch


def test_single_window_keeps_its_own_resolution() -> None:
    asked: list[object] = []

    def score(corners):
        asked.append(corners)
        return torch.stack([torch.full((2, 1, 3), 1.0), torch.full((2, 1, 3), 2.0)])

    assert slide_scores((4, 6), (4, 6), 2, 8, score).tolist() == torch.full((2, 1, 3), 1.0).tolist()
    assert asked == [[(0, 0)]]


def test_scores_between_the_centres_of_cells_are_mixed() -> None:
    """Two cells over a window of four pixels, windows at 0 and 4 that do not overlap."""
    got = slide_scores((4, 8), (4, 4), 4, 2, lambda corners: torch.tensor([[[[0.0, 1.0]]]] * len(corners)))
    assert got[0, 0].tolist() == [0, 0.25, 0.75, 1] * 2


def test_coarse_scores_are_spread_over_their_window() -> None:
    got = slide_scores((4, 6), (4, 4), 2, 1, lambda corners: torch.full((1, 2, 1, 1), float(corners[0][1])))
    assert got.shape == (2, 4, 6)
    assert got[0, 0].tolist() == [0, 0, 1, 1, 2, 2]
