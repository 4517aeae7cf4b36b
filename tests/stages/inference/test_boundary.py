"""Boundary IoU against its definition, pixel by pixel, and against numbers made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from split_matching.stages.inference.boundary import BoundaryCounts, boundary_distance, find_boundaries
from split_matching.stages.inference.evaluate import Counts

IGNORE = 255


def plain_boundary(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Pixels of a mask from which a pixel outside of it, or outside of the image, is at most `distance` away."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        for v in range(y - distance, y + distance + 1):
            for u in range(x - distance, x + distance + 1):
                inside = 0 <= v < height and 0 <= u < width and mask[v, u]
                found[y, x] |= not inside
    return found


@pytest.mark.parametrize(("height", "width", "distance"), [(9, 14, 1), (23, 17, 2), (30, 31, 3), (4, 5, 4), (1, 6, 1)])
def test_counts_are_those_of_the_definition(
    height: int, width: int, distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("split_matching.stages.inference.boundary.boundary_distance", lambda *shape: distance)
    rng = np.random.default_rng(height)
    counts, classes = BoundaryCounts(4), 4
    common, union = np.zeros(classes), np.zeros(classes)
    for _ in range(3):
        blocks = rng.integers(0, 3, (2, height // 4 + 1, width // 4 + 1)).astype(np.uint8)
        truth, prediction = blocks.repeat(4, 1).repeat(4, 2)[:, :height, :width]
        prediction = np.roll(prediction, 1, 1)
        truth[rng.random(truth.shape) < 0.1] = IGNORE
        counts.update(truth, prediction, IGNORE)
        for label in range(classes):
            ours = plain_boundary((prediction == label) & (truth != IGNORE), distance)
            theirs = plain_boundary(truth == label, distance)
            common[label] += (ours & theirs).sum()
            union[label] += (ours | theirs).sum()
    expected = np.divide(common, union, out=np.full(classes, math.nan), where=union > 0)
    assert np.isfinite(expected).any() and math.isnan(expected[3])
    np.testing.assert_allclose(counts.iou, expected, rtol=1e-12)


def test_a_square_by_hand() -> None:
    """A square of 6 x 6, and the same one pixel to the right, far from the border; d is 1."""
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[7:13, 7:13] = prediction[7:13, 8:14] = 1
    assert boundary_distance(20, 20) == 1
    counts = BoundaryCounts(2)
    counts.update(truth, prediction, IGNORE)
    # a ring has 36 - 16 = 20 pixels; the two share the upper and lower sides but for a corner each: 5 + 5
    assert (counts.truth[1], counts.predicted[1], counts.common[1]) == (20, 20, 10)
    assert counts.iou[1] == pytest.approx(10 / 30)
    # IoU of the whole squares is 30 / 42: it hides the shift


def test_right_is_one_and_the_border_counts() -> None:
    labels = np.zeros((50, 50), np.uint8)
    labels[:, 25:] = 1
    counts = BoundaryCounts(2)
    counts.update(labels, labels, IGNORE)
    assert counts.iou.tolist() == [1.0, 1.0]
    inner = np.zeros((50, 50), bool)
    inner[1:49, 1:24] = inner[1:49, 26:49] = True
    assert (find_boundaries(labels, 1) == ~inner).all()


def test_what_is_not_labelled_is_in_no_mask() -> None:
    """An outline within unlabelled pixels is that of both: a wrong prediction there costs nothing."""
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 1
    truth[:, 18:22] = IGNORE
    prediction = np.where(truth == IGNORE, 2, truth).astype(np.uint8)
    counts = BoundaryCounts(3)
    counts.update(truth, prediction, IGNORE)
    assert counts.iou[:2].tolist() == [1.0, 1.0] and math.isnan(counts.iou[2])
    assert counts.predicted[2] == 0


@pytest.mark.parametrize(("size", "expected"), [((375, 500), 12), ((128, 128), 4), ((10, 10), 1), ((1024, 2048), 46)])
def test_distance_is_two_percent_of_the_diagonal(size: tuple[int, int], expected: int) -> None:
    assert boundary_distance(*size) == expected


def test_evaluation_counts_boundaries_with_its_own_gamma_and_finds_the_image_of_each_confusion() -> None:
    """Two images of two classes, class 0 seen; with gamma 1 every pixel is class 1."""
    config = SimpleNamespace(gamma=0.0, gamma_sweep=(1.0,))
    counts = Counts(np.array([True, False]), config)
    truth = np.zeros((2, 8, 8), np.uint8)
    truth[1, :, 4:] = 1
    predicted = truth.copy()
    predicted[0, :2] = 1  # 16 pixels of class 0 taken for class 1, then 4
    predicted[1, 0, :4] = 1
    expected = BoundaryCounts(2)
    for place, name in enumerate("ab"):
        scores = 0.5 * torch.nn.functional.one_hot(torch.from_numpy(predicted[place]).long(), 2).permute(2, 0, 1)
        counted = counts.count(truth[place], scores)
        counts.add(name, counted)
        assert (counted.labels == predicted[place]).all()
        expected.update(truth[place], predicted[place], IGNORE)
    assert counts.boundary.iou.tolist() == expected.iou.tolist()
    assert counts.most.tolist() == [[48, 16], [0, 32]] and counts.where.tolist() == [[0, 0], [0, 1]]
