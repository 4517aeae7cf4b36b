"""TrainDecoder: train the query decoder with split matching on cached features, pseudo masks and region embeddings.

Source: paper; schedule and sizes are choices. The order of images and the flips are functions of (seed, step) alone, so
an interrupted run that resumes from its checkpoint ends with the bytes of an undisturbed one (on the CPU). How images
become batches is in `batches`; training on augmented images instead of cached features is in `train_online`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor

from split_matching.configs.settings import TrainConfig
from split_matching.errors import ConfigError, UserError
from split_matching.model.criterion import SplitCriterion, Targets
from split_matching.model.matcher import NotFiniteError
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import LayerOutputs
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.ordered_map import worker_threads
from split_matching.stages.ground.tensor_files import write_tensors
from split_matching.stages.training.batches import AHEAD, CachedImages, TrainingImages, prefetch
from split_matching.stages.training.checkpoint import Checkpoints, Stateful, load_checkpoint, restore_checkpoint
from split_matching.stages.training.learner import Encoder, Learner
from split_matching.stages.training.metric_log import MetricLog
from split_matching.stages.training.validation import Validation

WEIGHTS = "weights.safetensors"


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Train on cached features; see `train_decoder`."""
    images = CachedImages(ctx)
    return train_decoder(ctx, images, images.item(images.ids[0]).tokens[0].shape[-1])


def train_decoder(
    ctx: StageContext, images: TrainingImages, width: int, encoder: Encoder | None = None
) -> dict[str, float | int | str]:
    """Train from the last checkpoint, or from the start; write `weights.safetensors` and the log (see MetricLog).

    With `train.validate_every` also write the best weights (see Validation). Processes that torch.distributed has
    joined share every batch; the first of them alone writes.

    Args:
        ctx: context of the stage.
        images: where batches come from.
        width: channels of every token map.
        encoder: makes the token maps of a batch from its images' patches; None: the items hold token maps.

    Returns:
        `steps`, `trainable_parameters`, `images`; of a validated training `best_step` and `best_held_out_mIoU` too.

    Raises:
        ConfigError: the batch cannot be shared evenly.
        UserError: the training diverged.
    """
    config: TrainConfig = ctx.config.train
    group, device = ProcessGroup(), device_of(ctx)
    if config.batch % group.size:
        raise ConfigError(f"train.batch {config.batch} cannot be shared evenly by {group.size} processes")
    text = load_file(ctx.inputs["text"].file("text.safetensors"))
    learner = Learner(ctx.config, width, text["seen"], float(text["logit_scale"]), group, device, encoder)
    validation = Validation(images, ctx.config, learner.criterion.text, group)
    parts = learner.parts | ({"best": validation.best} if config.validate_every else {})
    start = _resume(ctx, parts, device, group)
    writes, check = group.rank == 0, _TermCheck()
    checkpoints = Checkpoints(ctx.out, parts, config.checkpoint_every, config.steps, device, check.look)
    pool = worker_threads(AHEAD)
    with pool, MetricLog(ctx, start) if writes else contextlib.nullcontext() as log, checkpoints:
        batches = prefetch(images, config, start, group, ctx.config.decoder.upsample, device, pool)
        for step, batch in enumerate((batch.to(device) for batch in batches), start):
            outputs = learner.predict(batch)
            terms = _find_terms(learner.criterion, outputs, batch.targets, step, check)
            metrics = dict(zip(terms, group.sum(torch.stack(list(terms.values()))), strict=True))
            check.add(step, metrics)
            rate = learning_rate(config, step)
            norm = learner.update(terms["loss"], rate)
            if log and (step % config.log_every == 0 or step == config.steps - 1):
                check.look()
                numbers = _round(metrics | {"grad_norm": norm}) | {"lr": rate}
                log.add(step, numbers, learner.describe_matching(outputs, batch.targets))
            miou = validation.step_done(step + 1, learner.model, lambda b: learner.predict(b)[-1], pool)
            if log and miou is not None:
                log.add_validation(step + 1, miou)
            checkpoints.step_done(step + 1)
            ctx.progress(step + 1, config.steps)
    check.look()
    if writes:
        write_tensors(ctx.out / WEIGHTS, learner.model.state_dict())
        validation.write_best(ctx.out)
    parameters = sum(p.numel() for p in learner.model.parameters())
    return {"steps": config.steps, "trainable_parameters": parameters, "images": len(images.ids), **validation.summary}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then poly decay to `min_lr`. Source: choice (ZegCLIP's, by mmcv's formula)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    decay = (1 - step / config.steps) ** config.poly
    return (config.lr - config.min_lr) * warm * decay + config.min_lr * warm


def _resume(ctx: StageContext, parts: Mapping[str, Stateful], device: str, group: ProcessGroup) -> int:
    """Return the step to continue from; the first process says which, and each one loads the checkpoint itself."""
    start = restore_checkpoint(ctx.out, parts, device, ctx.say) if group.rank == 0 else 0
    start = int(group.broadcast(start))
    if start and group.rank:
        load_checkpoint(ctx.out, parts, device)
    return start


# --- one step ---------------------------------------------------------------------------------------------------------


def _find_terms(
    criterion: SplitCriterion, outputs: LayerOutputs, targets: Targets, step: int, before: _TermCheck
) -> dict[str, Tensor]:
    """Loss terms, see SplitCriterion.

    Args:
        criterion: the criterion.
        outputs: predictions of all layers.
        targets: what they are matched to.
        step: for the error.
        before: has the terms of the step before.

    Raises:
        UserError: a term of the step before, or a prediction, is not finite.
    """
    try:
        terms: dict[str, Tensor] = criterion(outputs, targets)
        before.look()
        return terms
    except NotFiniteError as error:
        before.look()
        layer = error.layer if criterion.config.deep_supervision else len(outputs) - 1
        raise _diverged(step, f"the predictions of layer {layer} of {len(outputs) - 1}") from None


class _TermCheck:
    """Stops a training whose loss terms are not finite, without waiting for a GPU to compute them.

    They are looked at when the next step was matched: by then they are there. A checkpoint and the log look at once.
    """

    def __init__(self) -> None:
        self._step, self._names, self._there = 0, [""], None
        self._values = torch.zeros(1)

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        """Note the terms of a step, scalars of the whole batch."""
        self._step, self._names = step, list(terms)
        values = torch.stack(list(terms.values())).detach()
        self._values = values.to("cpu", non_blocking=True)
        self._there = torch.cuda.current_stream().record_event() if values.is_cuda else None

    def look(self) -> None:
        """Look at what was noted last.

        Raises:
            UserError: a term is not finite.
        """
        if self._there is not None:
            self._there.synchronize()
        found = dict(zip(self._names, self._values.tolist(), strict=True))
        if bad := [name for name, value in found.items() if not math.isfinite(value)]:
            raise _diverged(self._step, ", ".join(name for name in bad if name != "loss") or "the sum of the terms")


def _diverged(step: int, where: str) -> UserError:
    return UserError(f"not finite at step {step}: {where}: lower train.lr or raise train.warmup")


def _round(values: dict[str, Tensor]) -> dict[str, float]:
    """Finite scalars for the log: the digits after the sixth say nothing and vary between machines."""
    numbers = torch.stack(list(values.values())).tolist()
    return {name: round(value, 6) for name, value in zip(values, numbers, strict=True) if math.isfinite(value)}
