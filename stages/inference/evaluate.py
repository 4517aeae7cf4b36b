"""Evaluate: label every pixel of the validation split and compute the generalised zero-shot metrics.

The first stage that learns the unseen classes' names: they are embedded here, as text, and nowhere else (paper:
inductive). With `data.fold`, the hidden seen classes play the unseen ones, and the true unseen classes stay unknown:
their pixels are ignored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.class_list import ClassEntry
from split_matching.model.votes import label_map
from split_matching.stages.data.images import IGNORE, Labels, read_all_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.class_text import embed_classes
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.inference.boundary import BoundaryCounts
from split_matching.stages.inference.cross_dataset import seen_elsewhere
from split_matching.stages.inference.exported_decoder import read_export
from split_matching.stages.inference.metric_files import write_confused, write_metrics, write_per_image
from split_matching.stages.inference.metrics import ConfusionMatrix, compute_scores, score_image
from split_matching.stages.inference.predictors import load_predictor

KIND = "predictions"


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
    predictor = load_predictor(ctx, text, torch.from_numpy(seen).to(device))
    source = open_source(config.data, ctx.data_root)
    ids = sorted(str(image["id"]) for image in ctx.inputs["dataset"].json("val.json")["images"])
    counts = Counts(len(entries), torch.from_numpy(seen).to(device), config.evaluate)
    with ShardWriter(ctx.out / "val-00000.h5", KIND, {"labels": Field("uint8", lead=2, compress=True)}) as writer:
        for done, image_id in enumerate(ids, 1):
            truth = read_all_labels(source, image_id, [entry.id for entry in entries])
            writer.add(image_id, labels=counts.add(image_id, truth, predictor.score(image_id)))
            ctx.progress(done, len(ids))
    write_per_image(ctx.out / "per_image.csv", counts.images)
    write_confused(ctx.out / "confused.csv", counts.most, counts.where, ids)
    extra = {
        **foreign,
        "gamma": config.evaluate.gamma,
        "gamma_sweep": [
            {"gamma": gamma, **compute_scores(confusion, seen).percent()}
            for gamma, confusion in counts.by_gamma.items()
        ],
        "complexity": predictor.count_cost(),
    }
    result = write_metrics(
        ctx.out, counts.by_gamma[config.evaluate.gamma], entries, seen, extra, boundary=counts.boundary.iou
    )
    return {name: value for name, value in result.percent().items() if math.isfinite(value)}


def competing_classes(config: Any) -> tuple[list[ClassEntry], NDArray[np.bool_]]:
    """Classes that compete for a pixel, in order, and which of them were seen in training.

    Returns:
        All classes; with a fold, the seen classes only, the hidden ones counted as unseen.
    """
    classes, fold, folds = config.classes.all, config.data.fold, config.data.folds
    trained = {entry.id for entry in classes.seen(fold, folds)}
    entries = list(classes.entries if fold is None else classes.seen())
    return entries, np.array([entry.id in trained for entry in entries])


class Counts:
    """Labels images with each gamma to report, and counts right and wrong pixels.

    Args:
        classes: how many compete, C.
        seen: which of them are seen. Shape: (C,), bool.
        config: EvaluateConfig; reads `gamma` and `gamma_sweep`.

    Attributes:
        by_gamma: the confusion matrix of all images for each gamma, in rising order.
        most: for each pair of truth and prediction, most pixels of it in one image. Shape: (C, C), int64.
        where: place of that image in `images`. Shape: (C, C), int64.
        boundary: boundary pixels of all images with `evaluate.gamma`.
        images: id, pixel accuracy and mIoU of each image with `evaluate.gamma`.
    """

    def __init__(self, classes: int, seen: Tensor, config: Any) -> None:
        self.classes, self.seen, self.gamma = classes, seen, config.gamma
        gammas = sorted({config.gamma, *config.gamma_sweep})
        self.by_gamma = {gamma: ConfusionMatrix(classes) for gamma in gammas}
        self.most, self.where = np.zeros((2, classes, classes), np.int64)
        self.boundary = BoundaryCounts(classes)
        self.images: list[tuple[str, float, float]] = []

    def add(self, image_id: str, truth: Labels, scores: Tensor) -> NDArray[np.uint8]:
        """Count one image.

        Args:
            image_id: which image.
            truth: its labels, IGNORE for none. Shape: (H, W).
            scores: class scores. Shape: (C, H', W').

        Returns:
            The labels with `evaluate.gamma`. Shape: (H, W).
        """
        for gamma, confusion in self.by_gamma.items():
            labels = label_map(scores, self.seen, gamma, *truth.shape).to(torch.uint8).cpu().numpy()
            own = ConfusionMatrix(self.classes)
            own.update(truth, labels, IGNORE)
            confusion.merge(own)
            if gamma == self.gamma:
                chosen = labels
                self.boundary.update(truth, labels, IGNORE)
                more = own.counts > self.most
                self.most[more], self.where[more] = own.counts[more], len(self.images)
                self.images.append((image_id, *score_image(own.counts)))
        return chosen
