"""Sliding windows: score an image piece by piece and average where the pieces overlap.

Source: inference of the ZegCLIP family (mmsegmentation's `slide_inference`), as recalled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

Corner = tuple[int, int]
"""Top and left of a window, pixels."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one axis: every `stride` pixels, the last one aligned to the border."""
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def slide_scores(
    size: tuple[int, int],
    window: tuple[int, int],
    stride: int,
    batch: int,
    score: Callable[[Sequence[Corner]], Tensor],
) -> Tensor:
    """Average the scores of windows on one map.

    Only one batch of windows and one map of the image are held at a time.

    Args:
        size: height and width of the image, pixels.
        window: height and width of every window, pixels; not larger than the image.
        stride: pixels between windows.
        batch: windows scored at once.
        score: gives the scores of the windows at some corners. Shape: (n, C, h, w), at any resolution.

    Returns:
        Scores of every pixel. Shape: (C, height, width). With a single window, its own scores at their own resolution:
        there is nothing to average.
    """
    tops, lefts = (window_starts(size[axis], window[axis], stride) for axis in (0, 1))
    corners = [(top, left) for top in tops for left in lefts]
    if len(corners) == 1:
        return score(corners)[0]
    total: Tensor | None = None
    for first in range(0, len(corners), batch):
        members = corners[first : first + batch]
        for (top, left), scores in zip(members, score(members), strict=True):
            if total is None:
                total, covered = scores.new_zeros(len(scores), *size), scores.new_zeros(size)
            part = (slice(top, top + window[0]), slice(left, left + window[1]))
            if scores.shape[1:] != window:
                scores = F.interpolate(scores[None], window, mode="bilinear", align_corners=False)[0]
            total[:, *part] += scores
            covered[part] += 1
    assert total is not None
    return total.div_(covered)
