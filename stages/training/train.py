"""TrainDecoder: train the query decoder with split matching on cached features, pseudo masks and region embeddings.

Source: paper; schedule and sizes are choices. The order of images and the flips are functions of (seed, step) alone, so
an interrupted run that resumes from its checkpoint ends with the bytes of an undisturbed one (on the CPU). How images
become batches is in `batches`; training on augmented images instead of cached features is in `train_online`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from split_matching.configs.settings import DecoderConfig, TrainConfig
from split_matching.errors import ConfigError, UserError
from split_matching.model.criterion import SplitCriterion, Targets
from split_matching.model.match_statistics import match_statistics
from split_matching.model.matcher import NotFiniteError
from split_matching.model.precision import decoder_dtype, in_dtype
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import LayerOutputs, QueryDecoder, QueryOutput
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.ordered_map import worker_threads
from split_matching.stages.ground.tensor_files import write_tensors
from split_matching.stages.training.batches import AHEAD, Batch, CachedImages, TrainingImages, prefetch
from split_matching.stages.training.checkpoint import Checkpoints, Stateful, load_checkpoint, restore_checkpoint
from split_matching.stages.training.metric_log import MetricLog
from split_matching.stages.training.validation import Validation

WEIGHTS = "weights.safetensors"

Encoder = Callable[[Tensor, Tensor, Tensor | None, Sequence[tuple[int, int]]], list[Tensor]]
"""Token maps of a batch from its patches, validity, prompts and grids, see TokenEncoder; cached features need none."""


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
    known = load_file(ctx.inputs["text"].file("text.safetensors"))
    text, scale = known["seen"], float(known["logit_scale"])  # (C, D)
    blocks = ctx.config.features.decoder_blocks
    model = build_decoder(ctx.config.decoder, width, len(blocks), text.shape[1], max(blocks), config.seed).to(device)
    criterion = SplitCriterion(config, ctx.config.decoder, text, scale, group).to(device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.lr, fused=True)
    dtype = decoder_dtype(config.precision, device)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    validation = Validation(images, ctx.config, criterion.text, group)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    parts |= {"best": validation.best} if config.validate_every else {}
    start = _resume(ctx, parts, device, group)
    writes = group.rank == 0
    check = _TermCheck()
    checkpoints = Checkpoints(ctx.out, parts, config.checkpoint_every, config.steps, device, check.look)

    def predict(batch: Batch) -> QueryOutput:
        return _predict(model, encoder, batch, dtype)[-1]

    pool = worker_threads(AHEAD)
    with pool, MetricLog(ctx, start) if writes else contextlib.nullcontext() as log, checkpoints:
        batches = prefetch(images, config, start, group, ctx.config.decoder.upsample, device, pool)
        for step, batch in enumerate((batch.to(device) for batch in batches), start):
            outputs = _predict(model, encoder, batch, dtype)
            terms = _find_terms(criterion, outputs, batch.targets, step, check)
            metrics = dict(zip(terms, group.sum(torch.stack(list(terms.values()))), strict=True))
            check.add(step, metrics)
            rate = learning_rate(config, step)
            norm = _update(model, optimizer, scaler, terms["loss"], rate, config, group)
            if log and (step % config.log_every == 0 or step == config.steps - 1):
                check.look()
                numbers = _round(metrics | {"grad_norm": norm}) | {"lr": rate}
                log.add(step, numbers, _describe_matching(criterion, outputs.last(), batch.targets))
            miou = validation.step_done(step + 1, model, predict, pool)
            if log and miou is not None:
                log.add_validation(step + 1, miou)
            checkpoints.step_done(step + 1)
            ctx.progress(step + 1, config.steps)
    check.look()
    if writes:
        write_tensors(ctx.out / WEIGHTS, model.state_dict())
        validation.write_best(ctx.out)
    parameters = sum(p.numel() for p in model.parameters())
    return {"steps": config.steps, "trainable_parameters": parameters, "images": len(images.ids), **validation.summary}


def build_decoder(config: DecoderConfig, width: int, maps: int, dim: int, blocks: int, seed: int) -> QueryDecoder:
    """Make a decoder whose initial weights depend on the seed alone; the other arguments are those of QueryDecoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QueryDecoder(config, width, maps, dim, blocks)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then poly decay to `min_lr`. Source: choice (ZegCLIP's, by mmcv's formula)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    decay = (1 - step / config.steps) ** config.poly
    return (config.lr - config.min_lr) * warm * decay + config.min_lr * warm


def _parameter_groups(model: QueryDecoder, config: TrainConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on biases, norms, queries and prompts."""
    free = {"queries", "query_positions", "prompts"}
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if p.ndim > 1 and n not in free], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if p.ndim <= 1 or n in free], "weight_decay": 0.0},
    ]


def _resume(ctx: StageContext, parts: Mapping[str, Stateful], device: str, group: ProcessGroup) -> int:
    """Return the step to continue from; the first process says which, and each one loads the checkpoint itself."""
    start = restore_checkpoint(ctx.out, parts, device) if group.rank == 0 else 0
    start = int(group.broadcast(start))
    if start and group.rank:
        load_checkpoint(ctx.out, parts, device)
    return start


# --- one step ---------------------------------------------------------------------------------------------------------


def _predict(model: QueryDecoder, encoder: Encoder | None, batch: Batch, dtype: torch.dtype) -> LayerOutputs:
    """Predictions of every layer in float32, whatever the precision of the decoder's products.

    Args:
        model: the decoder.
        encoder: see `train_decoder`; it has CLIP's own precision.
        batch: token maps, or patches of the images alone.
        dtype: of the decoder's products.
    """
    maps = encoder(batch.tokens[0].float(), batch.valid, model.prompts, batch.grids) if encoder else batch.tokens
    with in_dtype(dtype, batch.valid.device.type):
        outputs: LayerOutputs = model(maps, batch.valid)
        return outputs.float32()


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


def _update(
    model: QueryDecoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    loss: Tensor,
    rate: float,
    config: TrainConfig,
    group: ProcessGroup,
) -> Tensor:
    """Take one step of the optimizer; returns the norm of the gradients before clipping."""
    for parameter_group in optimizer.param_groups:
        parameter_group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    group.sum_gradients(model.parameters())
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
    scaler.step(optimizer)  # in float16 a step that overflows is left out, and the scale is lowered
    scaler.update()
    return norm


@torch.no_grad()
def _describe_matching(
    criterion: SplitCriterion, outputs: LayerOutputs, targets: Targets
) -> dict[str, float | list[int]]:
    return match_statistics(criterion.match(outputs, targets), outputs, targets)


def _diverged(step: int, where: str) -> UserError:
    return UserError(
        f"not finite at step {step}: {where}: lower train.lr or raise train.warmup; the last checkpoint is kept"
    )


def _round(values: dict[str, Tensor]) -> dict[str, float]:
    """Finite scalars for the log: the digits after the sixth say nothing and vary between machines."""
    numbers = torch.stack(list(values.values())).tolist()
    return {name: round(value, 6) for name, value in zip(values, numbers, strict=True) if math.isfinite(value)}
