"""From class scores to the labels of an image's pixels, for many values of gamma at once.

Gamma is subtracted from the scores of all seen classes alike, so it never changes which of them is the best one. Each
pixel chooses between two classes, and the larger gamma is, the more pixels choose the unseen one.

Source: calibrated stacking, Chao et al. 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.model.resampling import Resampling, Strip

STRIP = {"cpu": 2**17, "cuda": 2**19}
"""Pixels that are worked on at once: what stays in the cache of a core, and what a GPU has memory for."""


@dataclass(frozen=True)
class LabelChoices:
    """What the pixels of an image choose between.

    Args:
        seen: the best seen class. Shape: (H, W), uint8.
        unseen: the best unseen class. Shape: (H, W), uint8.
        wins: for how many of the gammas, from the smallest on, the seen class is chosen. Shape: (H, W), uint8, or
            uint16 for more than 255 gammas.
    """

    seen: NDArray[np.uint8]
    unseen: NDArray[np.uint8]
    wins: NDArray[np.unsignedinteger]

    def labels(self, place: int) -> NDArray[np.uint8]:
        """Class of each pixel with the gamma at a place of the list. Shape: (H, W), uint8."""
        return np.where(self.wins > place, self.seen, self.unseen)


@torch.inference_mode()
def choose_labels(
    scores: Tensor, seen: Tensor, gammas: Sequence[float], height: int, width: int, strip: int = 0
) -> LabelChoices:
    """Resample scores to the image, and compare the best seen with the best unseen class of every pixel.

    Of equal scores the class with the lower index is chosen. Memory beside the scores does not grow with the classes.

    Args:
        scores: class scores of one image; at most 255 classes. Shape: (C, h, w), float32.
        seen: which classes are seen. Shape: (C,), bool.
        gammas: in rising order.
        height: of the image, pixels.
        width: of the image, pixels.
        strip: pixels that are worked on at once; 0 for what suits the device. Changes no result.

    Returns:
        The choices, on the CPU.
    """
    groups = [torch.nonzero(members)[:, 0].tolist() for members in (seen, ~seen)]
    size = (height, width)
    choices = LabelChoices(
        np.empty(size, np.uint8), np.empty(size, np.uint8), np.zeros(size, np.min_scalar_type(len(gammas)))
    )
    best_of = _best_on_cpu if scores.device.type == "cpu" else _best
    resampling = Resampling((scores.shape[1], scores.shape[2]), size, scores.device)
    for part, take in resampling.strips(strip or STRIP[scores.device.type]):
        shape = (part.stop - part.start, width)
        best, choices.seen[part] = best_of(scores, groups[0], take, shape)
        other, choices.unseen[part] = best_of(scores, groups[1], take, shape)
        first = choices.seen[part] < choices.unseen[part]
        for gamma in gammas:
            lowered = best - np.float32(gamma)
            choices.wins[part] += (lowered > other) | (first & (lowered == other))
    return choices


Best = tuple[NDArray[np.float32], NDArray[np.uint8]]


def _best_on_cpu(scores: Tensor, classes: Sequence[int], take: Strip, shape: tuple[int, int]) -> Best:
    """Score and index of the best of some classes at every pixel of a strip; of equal ones the first.

    One class after the other, in NumPy: torch's `max` over classes takes several times as long.
    """
    best, labels = np.full(shape, -np.inf, np.float32), np.full(shape, min(classes, default=0), np.uint8)
    better, place = np.empty(shape, np.bool_), np.empty(shape, np.uint8)
    for index in classes:
        values = take(scores[index : index + 1])[0].numpy()
        np.greater(values, best, out=better)
        np.maximum(values, best, out=best)
        # classes come in rising order, so the last one that was better is the one with the greatest index
        np.multiply(better.view(np.uint8), np.uint8(index), out=place)
        np.maximum(labels, place, out=labels)
    return best, labels


def _best(scores: Tensor, classes: Sequence[int], take: Strip, shape: tuple[int, int]) -> Best:
    """As `_best_on_cpu`, all classes at once."""
    if not classes:
        return np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint8)
    index = torch.tensor(classes, device=scores.device)
    best, place = take(scores[index]).max(0)
    return best.cpu().numpy(), index[place].to(torch.uint8).cpu().numpy()
