"""Evaluate: label every pixel of the validation split and compute the generalised zero-shot metrics.

The first stage that learns the unseen classes' names: they are embedded here, as text, and nowhere else (paper:
inductive). With `data.fold`, the hidden seen classes play the unseen ones, and the true unseen classes stay unknown:
their pixels are ignored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.class_list import ClassEntry
from split_matching.model.label_choices import LabelChoices, choose_labels
from split_matching.stages.data.labels import IGNORE, Labels, read_all_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.budget import Budget
from split_matching.stages.ground.class_text import embed_classes
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import ordered_map
from split_matching.stages.inference.boundary import BoundaryCounts
from split_matching.stages.inference.cross_dataset import seen_elsewhere
from split_matching.stages.inference.exported_decoder import read_export
from split_matching.stages.inference.metric_files import write_confused, write_metrics, write_per_image
from split_matching.stages.inference.metrics import ConfusionMatrix, compute_scores, score_image
from split_matching.stages.inference.predictors import load_predictor
from split_matching.stages.inference.score_memory import MOST_BYTES, score_bytes

KIND = "predictions"

READERS = 4
"""Threads beside a GPU."""


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Write `metrics.json`, three tables as CSV, `confusion.npy` and the predictions `val-00000.h5`."""
    config, device = ctx.config, device_of(ctx)
    entries, seen = competing_classes(config)
    foreign: dict[str, Any] = {}
    if config.evaluate.trained_on:
        about = read_export(Path(config.evaluate.trained_on))[0]
        seen = seen_elsewhere(about, entries)
        foreign = {
            "trained_on": about["run"],
            "seen": [e.name for e, known in zip(entries, seen, strict=True) if known],
        }
    text = embed_classes(frozen_clip(ctx), entries, config.text).to(device)
    predictor = load_predictor(ctx, text)
    source = open_source(config.data, ctx.data_root)
    ids = sorted(str(image["id"]) for image in ctx.inputs["dataset"].json("val.json")["images"])
    counts, budget = Counts(seen, config.evaluate), Budget(MOST_BYTES)

    def evaluate(image_id: str) -> Counted:
        truth = read_all_labels(source, image_id, [entry.id for entry in entries])
        with budget.take(score_bytes(config, truth.shape, len(entries))):
            return counts.count(truth, predictor.score(image_id))

    with ShardWriter(ctx.out / "val-00000.h5", KIND, {"labels": Field("uint8", lead=2, compress=True)}) as writer:
        images = zip(ids, ordered_map(evaluate, ids, _threads(device)), strict=True)
        for done, (image_id, counted) in enumerate(images, 1):
            writer.add(image_id, labels=counted.labels)
            counts.add(image_id, counted)
            ctx.progress(done, len(ids))
    write_per_image(ctx.out / "per_image.csv", counts.images)
    write_confused(ctx.out / "confused.csv", counts.most, counts.where, ids)
    extra = {
        **foreign,
        "gamma": config.evaluate.gamma,
        "gamma_sweep": _score_gammas(counts, seen),
        "complexity": predictor.count_cost(),
    }
    result = write_metrics(
        ctx.out, counts.by_gamma[config.evaluate.gamma], entries, seen, extra, boundary=counts.boundary.iou
    )
    return {name: value for name, value in result.percent().items() if math.isfinite(value)}


def _score_gammas(counts: Counts, seen: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Return the four numbers of each gamma, in percent."""
    found = counts.by_gamma.items()
    return [{"gamma": gamma, **compute_scores(confusion, seen).percent()} for gamma, confusion in found]


def competing_classes(config: Any) -> tuple[list[ClassEntry], NDArray[np.bool_]]:
    """Classes that compete for a pixel, in order, and which of them were seen in training.

    Returns:
        All classes; with a fold, the seen classes only, the hidden ones counted as unseen.
    """
    classes, fold, folds = config.classes.all, config.data.fold, config.data.folds
    trained = {entry.id for entry in classes.seen(fold, folds)}
    entries = list(classes.entries if fold is None else classes.seen())
    return entries, np.array([entry.id in trained for entry in entries])


def _threads(device: str) -> int:
    """How many images are worked on side by side.

    On the CPU one a thread, so that no byte depends on the number of threads (see `images_at_once`). Beside a GPU some
    threads read and count, while it computes the scores of another image.
    """
    return torch.get_num_threads() if device == "cpu" else min(READERS, len(os.sched_getaffinity(0)))


def count_labels(
    truth: Labels, scores: Tensor, seen: NDArray[np.bool_], gammas: Sequence[float]
) -> tuple[LabelChoices, tuple[ConfusionMatrix, ...]]:
    """Label an image with each gamma, and compare.

    Args:
        truth: its labels, IGNORE for none. Shape: (H, W).
        scores: class scores. Shape: (C, H', W').
        seen: which classes are seen. Shape: (C,), bool.
        gammas: in rising order.

    Returns:
        The labels, and the confusion matrix for each gamma.
    """
    choices = choose_labels(scores, torch.from_numpy(seen).to(scores.device), gammas, *truth.shape)
    by_gamma = tuple(ConfusionMatrix(len(seen)) for _ in gammas)
    for place, confusion in enumerate(by_gamma):
        confusion.update(truth, choices.labels(place), IGNORE)
    return choices, by_gamma


@dataclass(frozen=True)
class Counted:
    """What is kept of an image.

    Args:
        labels: with `evaluate.gamma`. Shape: (H, W).
        by_gamma: its own confusion matrix for each gamma.
        boundary: its own, with `evaluate.gamma`.
    """

    labels: NDArray[np.uint8]
    by_gamma: tuple[ConfusionMatrix, ...]
    boundary: BoundaryCounts


class Counts:
    """Right and wrong pixels of all images.

    Args:
        seen: which of the classes that compete are seen. Shape: (C,), bool.
        config: EvaluateConfig; reads `gamma` and `gamma_sweep`.

    Attributes:
        by_gamma: the confusion matrix of all images for each gamma, in rising order.
        most: for each pair of truth and prediction, most pixels of it in one image. Shape: (C, C), int64.
        where: place of that image in `images`. Shape: (C, C), int64.
        boundary: boundary pixels of all images with `evaluate.gamma`.
        images: id, pixel accuracy and mIoU of each image with `evaluate.gamma`.
    """

    def __init__(self, seen: NDArray[np.bool_], config: Any) -> None:
        self.seen = seen
        self.gammas = sorted({config.gamma, *config.gamma_sweep})
        self.chosen = self.gammas.index(config.gamma)
        self.by_gamma = {gamma: ConfusionMatrix(len(seen)) for gamma in self.gammas}
        self.most, self.where = np.zeros((2, len(seen), len(seen)), np.int64)
        self.boundary = BoundaryCounts(len(seen))
        self.images: list[tuple[str, float, float]] = []

    def count(self, truth: Labels, scores: Tensor) -> Counted:
        """Label one image and compare; other threads may do the same. See `count_labels`."""
        choices, by_gamma = count_labels(truth, scores, self.seen, self.gammas)
        labels, boundary = choices.labels(self.chosen), BoundaryCounts(len(self.seen))
        boundary.update(truth, labels, IGNORE)
        return Counted(labels, by_gamma, boundary)

    def add(self, image_id: str, counted: Counted) -> None:
        """Add what was counted of an image."""
        for confusion, own in zip(self.by_gamma.values(), counted.by_gamma, strict=True):
            confusion.merge(own)
        self.boundary.merge(counted.boundary)
        counts = counted.by_gamma[self.chosen].counts
        more = counts > self.most
        self.most[more], self.where[more] = counts[more], len(self.images)
        self.images.append((image_id, *score_image(counts)))
