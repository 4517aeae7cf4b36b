"""What must be as in the peers' work for numbers to compare: metrics, class names, prompts, windows, schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from split_matching.configs.class_list import load_shipped_classes
from split_matching.configs.load import known_datasets, load_config
from split_matching.stages.inference.metrics import ConfusionMatrix, compute_scores
from split_matching.stages.inference.sliding import window_starts


def label_maps(seed: int, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of a few images: mostly right, some pixels ignored, one class that occurs nowhere."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(6):
        shape = tuple(rng.integers(20, 60, 2))
        truth = rng.integers(0, classes - 1, shape).astype(np.uint8)
        prediction = np.where(rng.random(shape) < 0.7, truth, rng.integers(0, classes - 1, shape)).astype(np.uint8)
        truth[rng.random(shape) < 0.2] = 255
        found.append((truth, prediction))
    return found


def mmseg_ious(images: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """The formula of mmsegmentation's `intersect_and_union`: histograms of labels, summed over images."""
    areas = torch.zeros(3, classes, dtype=torch.float64)
    for truth, prediction in images:
        label, pred = (torch.from_numpy(side.astype(np.int64)) for side in (truth, prediction))
        kept = label != 255
        label, pred = label[kept], pred[kept]
        for row, values in enumerate((pred[pred == label], pred, label)):
            areas[row] += torch.histc(values.double(), bins=classes, min=0, max=classes - 1)
    return (areas[0] / (areas[1] + areas[2] - areas[0])).numpy()


@pytest.mark.parametrize(("seed", "classes"), [(0, 4), (1, 20), (2, 171)])
def test_iou_agrees_with_two_independent_implementations(seed: int, classes: int) -> None:
    images = label_maps(seed, classes)
    confusion = ConfusionMatrix(classes)
    for truth, prediction in images:
        confusion.update(truth, prediction, 255)
    seen = np.arange(classes) % 4 != 0
    result = compute_scores(confusion, seen)
    truth, prediction = (np.concatenate([pair[side].ravel() for pair in images]) for side in (0, 1))
    kept = truth != 255
    present = list(range(classes - 1))
    theirs = jaccard_score(truth[kept], prediction[kept], labels=present, average=None)
    np.testing.assert_allclose(result.iou[:-1], theirs, atol=1e-6, rtol=0)
    np.testing.assert_allclose(result.iou, mmseg_ious(images, classes), atol=1e-6, rtol=0)
    assert np.isnan(result.iou[-1])  # occurs nowhere, and enters no mean
    means = [np.nanmean(theirs[seen[:-1]]), np.nanmean(theirs[~seen[:-1]])]
    assert (result.miou_seen, result.miou_unseen) == pytest.approx(means, abs=1e-6)
    assert result.hiou == pytest.approx(2 * means[0] * means[1] / sum(means), abs=1e-6)
    assert result.pacc == pytest.approx((truth[kept] == prediction[kept]).mean(), abs=1e-9)


def test_voc_classes_are_spelt_and_split_as_the_peers_do() -> None:
    classes = load_shipped_classes("voc")
    assert [entry.name for entry in classes.unseen_entries] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert {"aeroplane", "diningtable", "motorbike"} <= {entry.name for entry in classes.seen()}
    assert len(classes.seen()) == 15 and classes.ignore == (0, 255)


@pytest.mark.parametrize(
    ("name", "prompts", "steps", "templates"), [("voc", 10, 20000, 1), ("coco_stuff", 100, 80000, 15)]
)
def test_data_sets_follow_the_protocol_of_the_peers(name: str, prompts: int, steps: int, templates: int) -> None:
    """As read in ZegCLIP's configs; features of training images would be read once, and are not kept."""
    config = load_config(name)
    train, evaluate, features = config.train, config.evaluate, config.features
    assert (evaluate.mode, evaluate.window, evaluate.stride, evaluate.short_side) == ("slide", 512, 426, 512)
    assert (features.size, features.resize, features.persist) == (512, "short", False)
    assert (train.features, train.batch, train.steps, train.warmup) == ("online", 16, steps, 1500)
    assert (train.lr, train.min_lr, train.weight_decay, train.poly) == (10 * 2e-5, 1e-6, 0.01, 0.9)
    assert (train.scale_range, train.cat_max_ratio, train.flip, train.photometric) == ((0.5, 2.0), 0.75, True, True)
    assert (config.decoder.prompts, len(config.text.templates)) == (prompts, templates)
    assert evaluate.gamma == 0 and config.text.templates[0].removesuffix(".") == "a photo of a {}"


@pytest.mark.parametrize("name", ["voc", "coco_stuff"])
def test_cached_recipes_are_of_the_same_data(name: str) -> None:
    config, cached = load_config(name), load_config(f"{name}_cached")
    assert (cached.data, cached.clip) == (config.data, config.clip)
    assert cached.features.persist and cached.evaluate.mode == "whole" and cached.decoder.prompts == 0


@pytest.mark.parametrize("name", sorted({*known_datasets()} - {"shapes"}))
def test_cached_token_maps_are_not_mirrored(name: str) -> None:
    """A mirrored image has another token map than the mirrored map of the image."""
    train = load_config(name).train
    assert train.flip == (train.features == "online")


def test_windows_of_an_image_with_a_short_side_of_512() -> None:
    """mmsegmentation: ceil((length - window) / stride) + 1 windows, the last one flush with the border."""
    for length in (512, 513, 683, 938, 939, 1365):
        count = max(length - 512 + 426 - 1, 0) // 426 + 1
        expected = [min(index * 426, length - 512) for index in range(count)]
        assert window_starts(length, 512, 426) == expected
