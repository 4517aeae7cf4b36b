"""Validation while training: the mIoU of seen classes on held-out training images, and the weights that were best.

Nothing about unseen classes enters: images are of the training split, the truth is annotation of seen classes, and only
these compete. Held-out images are not trained on. Source: choice; votes after MaskFormer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from split_matching.errors import DataError
from split_matching.model.criterion import Targets
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import QueryOutput
from split_matching.stages.ground.tensor_files import write_tensors
from split_matching.stages.training.batches import Batch, TrainingImages, collate

BEST = "best.safetensors"
COVERED = 0.5  # share of a mask cell that its class covers; other cells are not counted

Predict = Callable[[Batch], QueryOutput]
"""From a batch to the prediction of the last layer."""


class Validation:
    """Measures the seen classes on held-out images every so often; processes that train together share the images.

    Args:
        images: has the held-out images.
        config: reads `train` and `decoder`.
        text: text embeddings of the seen classes, unit length. Shape: (C, D).
        group: the processes.

    Attributes:
        best: the best weights so far.
    """

    def __init__(self, images: TrainingImages, config: Any, text: Tensor, group: ProcessGroup) -> None:
        self.images, self.text, self.group, self.best = images, text, group, BestWeights()
        self.every, self.steps = config.train.validate_every, config.train.steps
        self.upsample, self.batch = config.decoder.upsample, max(1, config.train.batch // group.size)
        self.queries = config.decoder.seen_group(config.train.matching)
        self.temperature = config.decoder.temperature
        self.ids = list(images.held_out)[group.rank :: group.size]

    def step_done(self, done: int, model: nn.Module, predict: Predict, pool: Executor) -> float | None:
        """Measure if it is due, and keep the weights if they are the best.

        Args:
            done: number of steps that are done; after the last one it is always due.
            model: whose weights are kept.
            predict: of this model.
            pool: the threads that read images.

        Returns:
            The mIoU, 0 to 1; None if it is not due.

        Raises:
            DataError: see `measure`.
        """
        if not self.every or (done % self.every and done < self.steps):
            return None
        miou = self.measure(predict, pool)
        self.best.offer(miou, done, model)
        return miou

    @property
    def summary(self) -> dict[str, float]:
        """What the stage's summary says of it: nothing without validation."""
        if not self.every:
            return {}
        return {"best_step": self.best.step, "best_held_out_mIoU": round(100 * self.best.score, 4)}

    def write_best(self, out: Path) -> None:
        """Write `best.safetensors`, if anything was validated."""
        if self.every:
            write_tensors(out / BEST, self.best.weights)

    @torch.no_grad()
    def measure(self, predict: Predict, pool: Executor) -> float:
        """Return the mean IoU of the seen classes that are annotated or predicted, 0 to 1.

        Raises:
            DataError: no seen class is annotated in any held-out image.
        """
        classes = len(self.text)
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=self.text.device)  # rows are truth
        for first in range(0, len(self.ids), self.batch):
            items = pool.submit(self.images.load_whole, self.ids[first : first + self.batch]).result()
            device = self.text.device.type
            batch = collate(items, self.upsample, device).to(device)
            truth, labels = true_labels(batch.targets, classes), self._labels(predict(batch))
            known = truth < classes
            counts += torch.bincount(truth[known] * classes + labels[known], minlength=classes**2).view_as(counts)
        counts = self.group.sum(counts)
        if not counts.any():
            raise DataError(
                "no seen class is annotated in any of the held-out images: raise train.validate_images, or set "
                "train.validate_every to 0"
            )
        return mean_iou(counts)

    def _labels(self, output: QueryOutput) -> Tensor:
        """The seen class with the most votes of the seen group at every mask cell. Shape: (B, P)."""
        logits = self.temperature * output.embeddings[:, : self.queries] @ self.text.T  # (B, Qs, C)
        logits = torch.cat([logits, output.no_object[:, : self.queries, None]], 2)
        masks = output.masks[:, : self.queries].flatten(2).sigmoid()  # (B, Qs, P)
        return torch.einsum("bqc,bqp->bpc", logits.softmax(-1)[..., :-1], masks).argmax(-1)


def true_labels(targets: Targets, classes: int) -> Tensor:
    """The seen class that covers a mask cell by half or more, `classes` for none. Shape: (B, P)."""
    images, cells = targets.valid.shape
    none = targets.seen_labels.new_full((images, cells), classes)
    if not targets.seen_labels.shape[1]:
        return none
    cover, place = targets.seen_masks.max(1)  # padded targets cover nothing
    return torch.where((cover >= COVERED) & (targets.valid > 0), targets.seen_labels.gather(1, place), none)


def mean_iou(counts: Tensor) -> float:
    """Mean IoU of the classes that occur in truth or prediction. Rows of counts are truth. Shape: (C, C)."""
    right = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((right / union)[union > 0].mean())


class BestWeights:
    """The weights with the highest score so far, the first of equal ones; a part of the checkpoint."""

    def __init__(self) -> None:
        self.score, self.step = -1.0, 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, score: float, step: int, model: nn.Module) -> None:
        """Keep the weights of a model after some steps if it is better than all before."""
        if score > self.score:
            self.score, self.step = score, step
            self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state for a checkpoint."""
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self.score, self.step = float(state["score"]), int(state["step"])
        self.weights = {name: value.cpu() for name, value in state["weights"].items()}
