"""TrainDecoder: train the query decoder with split matching on cached features, pseudo masks and region embeddings.

Source: paper; schedule and sizes are choices. The order of images and the flips are functions of (seed, step) alone, so
an interrupted run that resumes from its checkpoint ends with the bytes of an undisturbed one (on the CPU).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from split_matching.configs.schema import DecoderConfig, TrainConfig
from split_matching.errors import ConfigError, DataError, UserError
from split_matching.model.criterion import SplitCriterion, Targets
from split_matching.model.parallel import Group
from split_matching.model.query_decoder import QueryDecoder
from split_matching.stages.candidates.regions import masks_of
from split_matching.stages.data.images import read_seen_labels
from split_matching.stages.data.layouts import open_source
from split_matching.stages.data.resize import resize_share
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.ground.frozen_clip import device_of, token_tower
from split_matching.stages.ground.ordered_map import worker_threads
from split_matching.stages.training.checkpoint import resume, save_checkpoint
from split_matching.stages.training.metric_log import MetricLog
from split_matching.stages.training.online import AugmentedImages

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Item:
    """One training image.

    Args:
        tokens: one map for each decoder block, shapes (h, w, width), float16; online the image's patches alone, shape
            (h, w, patch * patch * 3), uint8: the visual tower makes the maps of a whole batch.
        seen_labels: index of each annotated seen class. Shape: (T,), int64.
        seen_masks: coverage of each. Shape: (T, H', W'), float32.
        region_embeddings: unit length. Shape: (R, D), float32.
        region_masks: coverage of each pseudo mask. Shape: (R, H', W'), float32.
    """

    tokens: list[NDArray[Any]]
    seen_labels: NDArray[np.int64]
    seen_masks: NDArray[np.float32]
    region_embeddings: NDArray[np.float32]
    region_masks: NDArray[np.float32]

    @property
    def bytes(self) -> int:
        """Memory of the arrays."""
        arrays = [*self.tokens, self.seen_labels, self.seen_masks, self.region_embeddings, self.region_masks]
        return sum(array.nbytes for array in arrays)

    def flipped(self) -> Item:
        """Return the item mirrored left to right."""
        return Item(
            [np.ascontiguousarray(t[:, ::-1]) for t in self.tokens],
            self.seen_labels,
            np.ascontiguousarray(self.seen_masks[..., ::-1]),
            self.region_embeddings,
            np.ascontiguousarray(self.region_masks[..., ::-1]),
        )


class TrainingSet:
    """Reads training items by id from the cache; labels are remapped to seen or unannotated on reading.

    Args:
        ctx: context of the stage.
        features: where token maps are read from, if not from the cache.
    """

    def __init__(self, ctx: StageContext, features: Features | None = None) -> None:
        self.online = AugmentedImages(ctx) if ctx.config.train.features == "online" else None
        self.features = features
        if self.features is None and self.online is None:
            self.features = ctx.inputs["features"].shards("train")
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.regions = ctx.inputs["regions"].shards("train")
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.seen_ids = ctx.config.classes.seen_ids
        self.blocks = ctx.config.features.decoder_blocks
        self.upsample = ctx.config.decoder.upsample
        self.ids = list(self.masks.ids)
        if not self.ids:
            raise DataError("the training split is empty: give a split with at least one image")
        self._kept: dict[str, Item] = {}
        self._room = ctx.runtime.cache_mb * 1_000_000

    def item(self, image_id: str) -> Item:
        """Read one image, or return it from memory; what fits into `runtime.cache_mb` is read once."""
        item = self._kept.get(image_id)
        if item is None:
            item = self._read(image_id)
            if item.bytes <= self._room:
                self._kept[image_id] = item
                self._room -= item.bytes
        return item

    def _read(self, image_id: str) -> Item:
        assert self.features is not None
        tokens = [self.features.read(image_id, f"tokens_{block}") for block in self.blocks]
        size = (tokens[0].shape[0] * self.upsample, tokens[0].shape[1] * self.upsample)
        labels, annotated = read_seen_labels(self.source, image_id, self.seen_ids)
        present = np.unique(labels[annotated])
        return Item(
            tokens,
            present.astype(np.int64),
            resize_share((labels[None] == present[:, None, None]).astype(np.float32), *size),
            self.regions.read(image_id, "embeddings").astype(np.float32),
            resize_share(masks_of(self.masks.read(image_id, "labels")).astype(np.float32), *size),
        )


def batch_ids(ids: list[str], config: TrainConfig, step: int) -> list[str]:
    """Ids of one step: consecutive slices of one seeded permutation an epoch, a function of (seed, step) alone."""
    chosen = []
    for position in range(step * config.batch, (step + 1) * config.batch):
        epoch, index = divmod(position, len(ids))
        chosen.append(ids[_permutation(config.seed, epoch, len(ids))[index]])
    return chosen


_PERMUTATIONS: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    key = (seed, epoch, count)
    if key not in _PERMUTATIONS:
        while len(_PERMUTATIONS) > 3:  # the present epoch, the next one, and the prefetching thread's
            del _PERMUTATIONS[next(iter(_PERMUTATIONS))]
        _PERMUTATIONS[key] = np.random.default_rng([seed, 1, epoch]).permutation(count)
    return _PERMUTATIONS[key]


def load_batch(data: TrainingSet, config: TrainConfig, step: int, group: Group) -> list[Item]:
    """Read, and mirror at random, this process's items of one step; online they are augmented in more ways."""
    positions = group.part(range(config.batch))
    ids = group.part(batch_ids(data.ids, config, step))
    if data.online:
        return [Item(*arrays) for arrays in data.online.items(ids, step, positions)]
    flips = np.random.default_rng([config.seed, 2, step]).random(config.batch) < 0.5  # one draw for all processes
    items = [(data.item(image_id), flips[position]) for image_id, position in zip(ids, positions, strict=True)]
    return [item.flipped() if flip and config.flip else item for item, flip in items]


def collate(items: list[Item], upsample: int, device: str) -> tuple[list[Tensor], Tensor, Targets]:
    """Pad a batch to its largest grid and its largest numbers of targets.

    Returns:
        Token maps (B, h, w, width) float32, their validity (B, h, w) bool, and the targets.
    """
    height = max(item.tokens[0].shape[0] for item in items)
    width = max(item.tokens[0].shape[1] for item in items)
    valid = torch.zeros(len(items), height, width, dtype=torch.bool)
    for row, item in enumerate(items):
        valid[row, : item.tokens[0].shape[0], : item.tokens[0].shape[1]] = True
    tokens = [_stack([item.tokens[b] for item in items], (height, width)) for b in range(len(items[0].tokens))]
    fine = (height * upsample, width * upsample)
    fine_valid = valid.repeat_interleave(upsample, 1).repeat_interleave(upsample, 2).flatten(1).float()
    targets = Targets(
        _stack([item.seen_labels for item in items], ()).to(device),
        _stack_masks([item.seen_masks for item in items], fine).to(device),
        tuple(len(item.seen_labels) for item in items),
        _stack([item.region_embeddings for item in items], ()).to(device),
        _stack_masks([item.region_masks for item in items], fine).to(device),
        tuple(len(item.region_embeddings) for item in items),
        fine_valid.to(device),
    )
    return [t.to(device).float() for t in tokens], valid.to(device), targets


def _stack(arrays: list[NDArray[Any]], size: tuple[int, ...]) -> Tensor:
    """Stack arrays, zero-padding their leading axes to `size`, or to the longest first axis."""
    size = size or (max(len(a) for a in arrays),)
    out = np.zeros((len(arrays), *size, *arrays[0].shape[len(size) :]), arrays[0].dtype)
    for row, array in enumerate(arrays):
        out[row][tuple(slice(n) for n in array.shape[: len(size)])] = array
    return torch.from_numpy(out)


def _stack_masks(masks: list[NDArray[np.float32]], size: tuple[int, int]) -> Tensor:
    """Stack masks (T_i, H', W') into (B, T, P), zero-padded."""
    out = np.zeros((len(masks), max(len(m) for m in masks), *size), np.float32)
    for row, mask in enumerate(masks):
        out[row, : len(mask), : mask.shape[1], : mask.shape[2]] = mask
    return torch.from_numpy(out).flatten(2)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then poly decay. Source: choice (after ZegCLIP)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return config.lr * warm * (1 - step / config.steps) ** config.poly


def build_decoder(config: DecoderConfig, width: int, maps: int, dim: int, blocks: int, seed: int) -> QueryDecoder:
    """Make a decoder whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QueryDecoder(config, width, maps, dim, blocks)


def prefetch(data: TrainingSet, config: TrainConfig, start: int, group: Group) -> Iterator[list[Item]]:
    """Items of the steps from `start` on, read two steps ahead in a thread."""
    with worker_threads(1) as pool:
        ahead = [pool.submit(load_batch, data, config, s, group) for s in range(start, min(start + 2, config.steps))]
        for step in range(start, config.steps):
            items = ahead.pop(0).result()
            if step + 2 < config.steps:
                ahead.append(pool.submit(load_batch, data, config, step + 2, group))
            yield items


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Train from the last checkpoint, or from the start; write `weights.safetensors` and the log (see MetricLog).

    Processes that torch.distributed has joined share every batch; the first of them alone writes.
    """
    config: TrainConfig = ctx.config.train
    group, device = Group(), device_of(ctx)
    if config.batch % group.size:
        raise ConfigError(f"train.batch {config.batch} cannot be shared evenly by {group.size} processes")
    data = TrainingSet(ctx)
    text = load_file(ctx.inputs["text"].file("text.safetensors"))["seen"]
    tower = token_tower(ctx) if data.online else None
    blocks = ctx.config.features.decoder_blocks
    width = tower.clip.width if tower else data.item(data.ids[0]).tokens[0].shape[-1]
    model = build_decoder(ctx.config.decoder, width, len(blocks), text.shape[1], max(blocks), config.seed).to(device)
    criterion = SplitCriterion(config, ctx.config.decoder, text, ctx.config.pseudo_masks.merge, group).to(device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.lr, fused=True)
    start = _resume(ctx, model, optimizer, device, group)
    writes = group.rank == 0
    with MetricLog(ctx.out, start) if writes else contextlib.nullcontext() as log:
        for step, items in enumerate(prefetch(data, config, start, group), start):
            tokens, valid, targets = collate(items, ctx.config.decoder.upsample, device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                outputs = model(tower(tokens[0], valid, model.prompts) if tower else tokens, valid)
            if not torch.isfinite(outputs[-1].masks).all():
                raise _diverged(step, "the predictions")
            terms = criterion([_float(output) for output in outputs], targets)
            whole = _over_all(terms, group)
            _check_finite(whole, step)
            rate = learning_rate(config, step)
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            group.sum_gradients(model.parameters())
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
            optimizer.step()
            if log and (step % config.log_every == 0 or step == config.steps - 1):
                metrics = _rounded(whole | {"grad_norm": norm}) | {"lr": rate}
                log.add(step, metrics, criterion.statistics(_float(outputs[-1]), targets))
            if writes and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                save_checkpoint(ctx.out, model, optimizer, step + 1)
            ctx.progress(step + 1, config.steps)
    if writes:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, ctx.out / WEIGHTS)
    parameters = sum(p.numel() for p in model.parameters())
    return {"steps": config.steps, "trainable_parameters": parameters, "images": len(data.ids)}


def _resume(ctx: StageContext, model: QueryDecoder, optimizer: torch.optim.Optimizer, device: str, group: Group) -> int:
    """Return the step to go on from; the first process reads the checkpoint and hands it to the others."""
    start = resume(ctx.out, model, optimizer, device) if group.rank == 0 else 0
    start = int(group.from_first(start))
    if start and group.size > 1:
        states = group.from_first((model.state_dict(), optimizer.state_dict()) if group.rank == 0 else None)
        model.load_state_dict(states[0])
        optimizer.load_state_dict(states[1])
    return start


def _over_all(terms: dict[str, Tensor], group: Group) -> dict[str, Tensor]:
    """Loss terms of the whole batch, from the parts of all processes."""
    total = group.sum(torch.stack(list(terms.values())))
    return dict(zip(terms, total, strict=True))


def _parameter_groups(model: QueryDecoder, config: TrainConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on biases, norms, queries and prompts."""
    free = {"queries", "query_positions", "prompts"}
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if p.ndim > 1 and n not in free], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if p.ndim <= 1 or n in free], "weight_decay": 0.0},
    ]


def _float(output: Any) -> Any:
    """A layer's prediction in float32: losses and matching are not computed in half precision."""
    return type(output)(output.embeddings.float(), output.no_object.float(), output.masks.float())


def _check_finite(terms: dict[str, Tensor], step: int) -> None:
    if torch.isfinite(terms["loss"]):
        return
    bad = [name for name, value in terms.items() if name != "loss" and not torch.isfinite(value)]
    raise _diverged(step, ", ".join(bad) or "the sum of the terms")


def _diverged(step: int, where: str) -> UserError:
    return UserError(
        f"not finite at step {step}: {where}: lower train.lr or raise train.warmup; the last checkpoint is kept"
    )


def _rounded(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars for the log: the digits after the sixth say nothing and vary between machines."""
    return {name: round(value.item(), 6) for name, value in values.items()}
