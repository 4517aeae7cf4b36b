"""TrainDecoder: train the query decoder with split matching on cached features, pseudo masks and region embeddings.

Source: paper; schedule and sizes are choices. The order of images and the flips are functions of (seed, step) alone, so
an interrupted run that resumes from its checkpoint ends with the bytes of an undisturbed one (on the CPU). How images
become batches is in `batches`; training on augmented images instead of cached features is in `train_online`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
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
from split_matching.stages.training.batches import CachedImages, TrainingImages, collate, prefetch
from split_matching.stages.training.checkpoint import Checkpoints, Stateful, restore_checkpoint
from split_matching.stages.training.metric_log import MetricLog
from split_matching.stages.training.validation import Validation

WEIGHTS = "weights.safetensors"

Encoder = Callable[[Tensor, Tensor, Tensor | None], list[Tensor]]
"""Token maps of a batch from its patches, validity and prompts, see TokenEncoder; cached features need no CLIP."""


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
    checkpoints = Checkpoints(ctx.out, parts, config.checkpoint_every, config.steps, device)

    def predict(maps: list[Tensor], inside: Tensor) -> QueryOutput:
        return _predict(model, encoder, maps, inside, dtype)[-1]

    with worker_threads(1) as pool, MetricLog(ctx, start) if writes else contextlib.nullcontext() as log, checkpoints:
        for step, items in enumerate(prefetch(images, config, start, group, pool), start):
            tokens, valid, targets = collate(items, ctx.config.decoder.upsample, device)
            outputs = _predict(model, encoder, tokens, valid, dtype)
            terms = _find_terms(criterion, outputs, targets, step)
            metrics = _sum_terms(terms, group, step)
            rate = learning_rate(config, step)
            norm = _update(model, optimizer, scaler, terms["loss"], rate, config, group)
            if log and (step % config.log_every == 0 or step == config.steps - 1):
                numbers = _round(metrics | {"grad_norm": norm}) | {"lr": rate}
                log.add(step, numbers, _describe_matching(criterion, outputs.last(), targets))
            miou = validation.step_done(step + 1, model, predict, pool)
            if log and miou is not None:
                log.add_validation(step + 1, miou)
            checkpoints.step_done(step + 1)
            ctx.progress(step + 1, config.steps)
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
    """Return the step to continue from; the first process reads the checkpoint and hands it to the others."""
    start = restore_checkpoint(ctx.out, parts, device) if group.rank == 0 else 0
    start = int(group.broadcast(start))
    if start and group.size > 1:
        own = {name: part.state_dict() for name, part in parts.items()} if group.rank == 0 else None
        states = group.broadcast(own)
        for name, part in parts.items():
            part.load_state_dict(states[name])
    return start


# --- one step ---------------------------------------------------------------------------------------------------------


def _predict(
    model: QueryDecoder, encoder: Encoder | None, tokens: list[Tensor], valid: Tensor, dtype: torch.dtype
) -> LayerOutputs:
    """Predictions of every layer in float32, whatever the precision of the decoder's products.

    Args:
        model: the decoder.
        encoder: see `train_decoder`; it has CLIP's own precision.
        tokens: token maps, or patches of the images alone. Shapes: (B, h, w, channels).
        valid: False on padding. Shape: (B, h, w), bool.
        dtype: of the decoder's products.
    """
    maps = encoder(tokens[0], valid, model.prompts) if encoder else tokens
    with in_dtype(dtype, valid.device.type):
        return model(maps, valid).float32()


def _find_terms(criterion: SplitCriterion, outputs: LayerOutputs, targets: Targets, step: int) -> dict[str, Tensor]:
    """Loss terms, see SplitCriterion.

    Raises:
        UserError: a prediction is not finite.
    """
    try:
        return criterion(outputs, targets)
    except NotFiniteError as error:
        layer = error.layer if criterion.config.deep_supervision else len(outputs) - 1
        raise _diverged(step, f"the predictions of layer {layer} of {len(outputs) - 1}") from None


def _sum_terms(terms: dict[str, Tensor], group: ProcessGroup, step: int) -> dict[str, Tensor]:
    """Loss terms of the whole batch, from the parts of all processes.

    Raises:
        UserError: a term is not finite.
    """
    whole = dict(zip(terms, group.sum(torch.stack(list(terms.values()))), strict=True))
    if not torch.isfinite(whole["loss"]):
        bad = [name for name, value in whole.items() if name != "loss" and not torch.isfinite(value)]
        raise _diverged(step, ", ".join(bad) or "the sum of the terms")
    return whole


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
    return {name: round(value.item(), 6) for name, value in values.items() if torch.isfinite(value)}
