"""The confusion matrix and the metrics against slow loops that follow the protocol word by word."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from split_matching.errors import DataError
from split_matching.stages.inference.metrics import ConfusionMatrix, compute_scores, harmonic_mean, score_image

IGNORE = 255


def random_case(seed: int, dtype: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Draw a class count and two label maps; some classes stay absent, some pixels are ignored."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 12))
    shape = tuple(rng.integers(1, 9, size=2))
    present = rng.choice(classes, size=int(rng.integers(1, classes + 1)), replace=False)
    truth, prediction = rng.choice(present, shape), rng.choice(present, shape)
    truth[rng.random(shape) < 0.3] = IGNORE
    return classes, truth.astype(dtype), prediction.astype(dtype)


def slow_counts(classes: int, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    counts = np.zeros((classes, classes), dtype=np.int64)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t != IGNORE:
            counts[t, p] += 1
    return counts


def slow_iou(classes: int, truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """IoU from sets of pixels, not from a matrix."""
    labelled = {i for i, t in enumerate(truth.ravel().tolist()) if t != IGNORE}
    result = []
    for c in range(classes):
        true = {i for i in labelled if truth.ravel()[i] == c}
        predicted = {i for i in labelled if prediction.ravel()[i] == c}
        union = len(true | predicted)
        result.append(len(true & predicted) / union if union else math.nan)
    return result


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
@pytest.mark.parametrize("seed", range(25))
def test_counts_equal_a_loop_over_pixels(seed: int, dtype: str) -> None:
    classes, truth, prediction = random_case(seed, dtype)
    confusion = ConfusionMatrix(classes)
    confusion.update(truth, prediction, IGNORE)
    np.testing.assert_array_equal(confusion.counts, slow_counts(classes, truth, prediction))
    assert confusion.counts.dtype == np.int64


@pytest.mark.parametrize("seed", range(25))
def test_scores_equal_set_arithmetic(seed: int) -> None:
    classes, truth, prediction = random_case(seed, "uint8")
    confusion = ConfusionMatrix(classes)
    confusion.update(truth, prediction, IGNORE)
    seen = np.random.default_rng(seed).random(classes) < 0.6
    result = compute_scores(confusion, seen)
    iou = slow_iou(classes, truth, prediction)
    np.testing.assert_allclose(result.iou, iou, rtol=1e-12)
    for group, value in ((seen, result.miou_seen), (~seen, result.miou_unseen)):
        defined = [x for x, member in zip(iou, group, strict=True) if member and not math.isnan(x)]
        expected = sum(defined) / len(defined) if defined else math.nan
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    labelled = truth != IGNORE
    if labelled.any():
        assert result.pacc == pytest.approx(np.mean(truth[labelled] == prediction[labelled]))


@pytest.mark.parametrize("classes", [3, 256])
def test_large_maps_of_bytes_are_counted_as_others(classes: int) -> None:
    """300 x 400 pixels: more than a table of all pairs of bytes has entries."""
    rng = np.random.default_rng(classes)
    truth, prediction = rng.integers(0, classes, (2, 300, 400)).astype(np.uint8)
    ignore = IGNORE if classes < 256 else 65535
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    counts = np.zeros((classes, classes), np.int64)
    counted = truth != ignore
    np.add.at(counts, (truth[counted], prediction[counted]), 1)
    confusion = ConfusionMatrix(classes)
    confusion.update(truth, prediction, ignore)
    np.testing.assert_array_equal(confusion.counts, counts)


def test_images_add_up_as_one() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 5, (2, 6, 40, 30)).astype(np.uint8)
    whole, parts, other = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(truth, prediction, IGNORE)
    for index in range(6):
        (parts if index % 2 else other).update(truth[index], prediction[index], IGNORE)
    parts.merge(other)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert (parts.images, parts.pixels) == (6, 6 * 40 * 30)


def test_prediction_at_ignored_pixels_does_not_matter() -> None:
    truth = np.array([[0, IGNORE, IGNORE]], dtype=np.uint8)
    first, second = ConfusionMatrix(2), ConfusionMatrix(2)
    first.update(truth, np.array([[0, 1, 0]], dtype=np.uint8), IGNORE)
    second.update(truth, np.array([[0, 255, 77]], dtype=np.uint8), IGNORE)
    np.testing.assert_array_equal(first.counts, second.counts)
    assert first.pixels == 1


def test_256_classes_fit_with_an_ignore_value_beyond_bytes() -> None:
    confusion = ConfusionMatrix(256)
    confusion.update(np.array([255, 0], dtype=np.uint8), np.array([255, 3], dtype=np.uint8), ignore=65535)
    assert confusion.counts[255, 255] == 1
    assert confusion.counts[0, 3] == 1


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 3], [0, 0], r"^truth holds the value 3 .* 0\.\.2 or 255"),
        ([0, 5], [0, 0], r"^truth holds the value 5 .* 0\.\.2 or 255"),
        ([0, 1], [0, 3], r"^prediction holds the value 3 .* 0\.\.2"),
        ([0, 1], [0, 5], r"^prediction holds the value 5 .* 0\.\.2"),
        ([0, 1], [0, 255], r"^prediction holds the value 255"),
        ([0, 1], [0, 1, 2], r"shape \(2,\) but the prediction has \(3,\)"),
    ],
)
def test_wrong_labels_are_rejected_and_leave_the_counts(
    dtype: str, truth: list[int], prediction: list[int], message: str
) -> None:
    confusion = ConfusionMatrix(3)
    with pytest.raises(DataError, match=message) as caught:
        confusion.update(np.array(truth, dtype=dtype), np.array(prediction, dtype=dtype), IGNORE)
    assert "\n" not in str(caught.value)
    assert confusion.pixels == 0
    assert confusion.images == 0


def test_negative_labels_are_rejected() -> None:
    with pytest.raises(DataError, match="value -1"):
        ConfusionMatrix(3).update(np.array([-1]), np.array([0]), IGNORE)


def byte_pixel() -> np.ndarray:
    return np.zeros(1, np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConfusionMatrix(0), "at least one class, not 0"),
        (lambda: ConfusionMatrix(3).update(byte_pixel(), byte_pixel(), ignore=2), r"ignore value 2 .* \(0\.\.2\)"),
        (lambda: ConfusionMatrix(3).update(byte_pixel(), byte_pixel(), ignore=0), r"ignore value 0 .* \(0\.\.2\)"),
        (lambda: ConfusionMatrix(3).update(np.zeros(1), np.zeros(1)), "not float64 and float64"),
        (lambda: ConfusionMatrix(3).update(byte_pixel(), np.zeros(1)), "not uint8 and float64"),
        (lambda: ConfusionMatrix(3).update(np.zeros(1), byte_pixel()), "not float64 and uint8"),
        (lambda: ConfusionMatrix(3).merge(ConfusionMatrix(4)), "cannot merge 4 classes into 3"),
        (lambda: compute_scores(np.zeros((2, 3), np.int64), [True, False]), r"is square, not \(2, 3\)"),
        (lambda: compute_scores(np.zeros((2, 2, 2), np.int64), [True, False]), r"is square, not \(2, 2, 2\)"),
        (lambda: compute_scores(np.zeros((2, 2), np.int64), [True]), r"shape \(1,\), expected \(2,\)"),
    ],
)
def test_programming_errors_are_value_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("truth", "prediction"), [("uint8", "int64"), ("int64", "uint8"), ("uint8", "uint8")])
def test_types_may_differ_and_255_is_ignored_unless_said_otherwise(truth: str, prediction: str) -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0, 1, 255], truth), np.array([1, 1, 0], prediction))
    assert confusion.counts.tolist() == [[0, 1], [0, 1]]


def test_hand_computed_numbers() -> None:
    counts = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    result = compute_scores(counts, [True, False, False])
    assert result.pacc == pytest.approx(13 / 20)
    np.testing.assert_allclose(result.iou, [8 / 10, 5 / 12, 0.0])
    assert result.miou_seen == pytest.approx(0.8)
    assert result.miou_unseen == pytest.approx(5 / 24)  # predicted but never true: 0, and it counts
    assert result.hiou == pytest.approx(2 * 0.8 * (5 / 24) / (0.8 + 5 / 24))
    np.testing.assert_allclose(result.accuracy, [0.8, 0.5, np.nan])
    percent = {"pAcc": 65, "mIoU_seen": 80, "mIoU_unseen": 500 / 24, "hIoU": 33.05785}  # 2 * 80 * 20.8333 / 100.8333
    assert result.percent() == pytest.approx(percent, rel=1e-6)


def test_a_class_absent_everywhere_enters_no_mean() -> None:
    result = compute_scores(np.array([[4, 0, 0], [0, 0, 0], [0, 0, 2]]), [True, True, False])
    assert math.isnan(result.iou[1])
    assert result.miou_seen == 1.0


def test_empty_groups_and_empty_matrix_are_nan_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        no_unseen = compute_scores(np.array([[4]]), [True])
        empty = compute_scores(np.zeros((2, 2), np.int64), [True, False])
    assert no_unseen.miou_seen == 1.0
    assert math.isnan(no_unseen.miou_unseen)
    assert math.isnan(no_unseen.hiou)
    assert math.isnan(empty.pacc)
    assert math.isnan(empty.hiou)


def test_harmonic_mean_of_zeros_is_zero() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert compute_scores(np.array([[0, 4], [4, 0]]), [True, False]).hiou == 0.0


def test_image_scores_are_of_the_classes_that_the_truth_shows() -> None:
    counts = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])  # class 2 occurs nowhere
    accuracy, iou = score_image(counts)
    assert accuracy == 10 / 12 and iou == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert score_image(np.array([[0, 3], [0, 0]]))[1] == 0  # class 1 is wrong, but not in the truth
    assert score_image(np.array([[1, 1], [0, 0]])) == (0.5, 0.5)  # so its IoU of 0 does not count
    assert score_image(np.array([[1, 0], [0, 0]])) == (1, 1)  # a single pixel is enough
    assert all(math.isnan(value) for value in score_image(np.zeros((2, 2), np.int64)))
