"""Batches of training images: what one image gives, which images a step gets, and how they are stacked.

The order of images is a function of (seed, step) alone, so a resumed run is exact.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from split_matching.configs.settings import TrainConfig
from split_matching.errors import DataError
from split_matching.model.criterion import Targets
from split_matching.model.process_group import ProcessGroup
from split_matching.stages.data.image_ids import choose_evenly
from split_matching.stages.data.label_shares import label_shares, present_labels
from split_matching.stages.data.labels import read_seen_labels
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.ground.ordered_map import worker_threads

AHEAD = 2  # batches that are read and stacked, side by side, while a step computes


@dataclass(frozen=True)
class Item:
    """One training image.

    Args:
        tokens: one map for each decoder block, shapes (h, w, width), float16; of an augmented image its patches alone,
            shape (h, w, patch * patch * 3), uint8: the visual tower makes the maps of a whole batch.
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

    def mirror(self) -> Item:
        """Return the item mirrored left to right.

        `copy`: `ascontiguousarray` would leave a map of one column as it is, which torch refuses.
        """
        return Item(
            [t[:, ::-1].copy() for t in self.tokens],
            self.seen_labels,
            self.seen_masks[..., ::-1].copy(),
            self.region_embeddings,
            self.region_masks[..., ::-1].copy(),
        )


class TrainingImages(Protocol):
    """Where training items come from: the cache (`CachedImages`) or augmented images (`augmented.AugmentedImages`)."""

    @property
    def ids(self) -> Sequence[str]:
        """Of the images to train on, sorted."""

    @property
    def held_out(self) -> Sequence[str]:
        """Of the images to validate on, sorted; no image is in both."""

    def load(self, ids: Sequence[str], step: int, positions: Sequence[int]) -> list[Item]:
        """Return the items of one step, in the order of `ids`; `positions` are their places in the whole batch."""

    def load_whole(self, ids: Sequence[str]) -> list[Item]:
        """Return items of whole images as they are, neither mirrored nor augmented."""


class CachedImages:
    """Training items from cached features; labels are remapped to seen or unannotated on reading.

    Args:
        ctx: context of the stage.
        features: where token maps are read from, if not from the cache.

    Raises:
        DataError: there is no training image.
    """

    def __init__(self, ctx: StageContext, features: Features | None = None) -> None:
        self.config: TrainConfig = ctx.config.train
        self.features: Features = ctx.inputs["features"].shards("train") if features is None else features
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.regions = ctx.inputs["regions"].shards("train")
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.seen_ids = ctx.config.classes.seen_ids
        self.blocks = ctx.config.features.decoder_blocks
        self.upsample = ctx.config.decoder.upsample
        self.ids, self.held_out = hold_out(self.masks.ids, self.config)
        self._pool = worker_threads(torch.get_num_threads())
        self._lock = threading.Lock()
        self._kept: dict[str, Item] = {}
        self._room = ctx.runtime.cache_mb * 1_000_000

    def load(self, ids: Sequence[str], step: int, positions: Sequence[int]) -> list[Item]:
        """See TrainingImages; about half of the items are mirrored."""
        flips = np.random.default_rng([self.config.seed, 2, step]).random(self.config.batch) < 0.5  # of all processes
        mirrored = [bool(flips[position]) and self.config.flip for position in positions]
        return list(self._pool.map(lambda image_id, flip: self.item(image_id, flip), ids, mirrored))

    def load_whole(self, ids: Sequence[str]) -> list[Item]:
        """See TrainingImages."""
        return [self.item(image_id) for image_id in ids]

    def item(self, image_id: str, mirrored: bool = False) -> Item:
        """Read one image, or return it from memory; what fits into `runtime.cache_mb` is read once."""
        item = self._kept.get(image_id)
        if item is None:
            item = self._read(image_id)
            with self._lock:
                if item.bytes <= self._room and image_id not in self._kept:
                    self._kept[image_id] = item
                    self._room -= item.bytes
        return item.mirror() if mirrored else item

    def _read(self, image_id: str) -> Item:
        with self._lock:  # readers of shards are for one thread at a time
            tokens = [self.features.read(image_id, f"tokens_{block}") for block in self.blocks]  # (h, w, width) each
            regions = self.masks.read(image_id, "labels")  # (H', W')
            embeddings = self.regions.read(image_id, "embeddings")
        size = (tokens[0].shape[0] * self.upsample, tokens[0].shape[1] * self.upsample)  # H', W'
        labels, _ = read_seen_labels(self.source, image_id, self.seen_ids)
        present = present_labels(labels)
        numbers = np.arange(1, int(regions.max(initial=0)) + 1)
        shares = label_shares(labels, present, *size), label_shares(regions, numbers, *size)
        return Item(tokens, present, shares[0], embeddings.astype(np.float32), shares[1])


def hold_out(ids: Sequence[str], config: TrainConfig) -> tuple[list[str], list[str]]:
    """Return the ids to train on, and those to validate on, evenly spread; none of these if nothing is validated.

    Raises:
        DataError: there is no image to train on.
    """
    if not ids:
        raise DataError("the training split is empty: give a split with at least one image")
    held = choose_evenly(ids, config.validate_images) if config.validate_every else []
    if len(held) == len(ids):
        raise DataError(
            f"train.validate_images {config.validate_images} holds out all of {len(ids)} training images: lower it, or "
            "set train.validate_every to 0"
        )
    others = set(ids).difference(held)
    return [image_id for image_id in ids if image_id in others], held


# --- which images a step gets -----------------------------------------------------------------------------------------


def batch_ids(ids: Sequence[str], config: TrainConfig, step: int) -> list[str]:
    """Ids of one step: consecutive slices of one seeded permutation an epoch, a function of (seed, step) alone."""
    chosen = []
    for position in range(step * config.batch, (step + 1) * config.batch):
        epoch, index = divmod(position, len(ids))
        chosen.append(ids[_permutation(config.seed, epoch, len(ids))[index]])
    return chosen


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def load_batch(images: TrainingImages, config: TrainConfig, step: int, group: ProcessGroup) -> list[Item]:
    """Load this process's items of one step."""
    ids = group.part(batch_ids(images.ids, config, step))
    return images.load(ids, step, group.part(range(config.batch)))


def prefetch(
    images: TrainingImages,
    config: TrainConfig,
    start: int,
    group: ProcessGroup,
    upsample: int,
    device: str,
    pool: Executor,
) -> Iterator[Batch]:
    """Yield this process's part of each step from `start` on, read and stacked some steps ahead in the pool."""

    def load(step: int) -> Batch:
        return collate(load_batch(images, config, step, group), upsample, device)

    ahead = deque(pool.submit(load, step) for step in range(start, min(start + AHEAD, config.steps)))
    for step in range(start, config.steps):
        batch = ahead.popleft().result()
        if step + AHEAD < config.steps:
            ahead.append(pool.submit(load, step + AHEAD))
        yield batch


# --- how they are stacked ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """A padded batch of B images.

    Args:
        tokens: token maps, or patches of the images alone. Shapes: (B, h, w, channels), as in `Item`.
        valid: False on padding, which is right of and below an image. Shape: (B, h, w), bool.
        grids: h and w of each image.
        targets: what predictions are matched to.
    """

    tokens: list[Tensor]
    valid: Tensor
    grids: list[tuple[int, int]]
    targets: Targets

    def to(self, device: str) -> Batch:
        """Copy it to a device; on a GPU nobody waits for that."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        moved: dict[str, Any] = {k: move(v) for k, v in vars(self.targets).items() if isinstance(v, Tensor)}
        targets = replace(self.targets, **moved)
        return Batch([move(tokens) for tokens in self.tokens], move(self.valid), self.grids, targets)


def collate(items: list[Item], upsample: int, device: str = "cpu") -> Batch:
    """Pad items to the largest grid and the largest numbers of targets.

    Args:
        items: B of them.
        upsample: cells of a mask along a side of a token, H' = upsample * h.
        device: where the batch is going: on the way to a GPU it is put into page-locked memory.
    """
    pinned = device == "cuda"
    grids = [item.tokens[0].shape[:2] for item in items]
    height, width = (max(sides) for sides in zip(*grids, strict=True))
    valid = torch.zeros(len(items), height, width, dtype=torch.bool)
    for row, grid in enumerate(grids):
        valid[row, : grid[0], : grid[1]] = True
    tokens = [_stack([item.tokens[b] for item in items], (height, width), pinned) for b in range(len(items[0].tokens))]
    fine = (height * upsample, width * upsample)
    fine_valid = valid.repeat_interleave(upsample, 1).repeat_interleave(upsample, 2).flatten(1).float()  # (B, P)
    seen = [len(item.seen_labels) for item in items]
    regions = [len(item.region_embeddings) for item in items]
    targets = Targets(
        _stack([item.seen_labels for item in items], (max(seen),), pinned),
        _stack([item.seen_masks for item in items], (max(seen), *fine), pinned).flatten(2),
        tuple(seen),
        _stack([item.region_embeddings for item in items], (max(regions),), pinned),
        _stack([item.region_masks for item in items], (max(regions), *fine), pinned).flatten(2),
        tuple(regions),
        _pin(fine_valid, pinned),
    )
    return Batch(tokens, _pin(valid, pinned), grids, targets)


def _stack(arrays: list[NDArray[Any]], size: tuple[int, ...], pinned: bool) -> Tensor:
    """Stack arrays, zero-padding their leading axes to `size`."""
    first = torch.from_numpy(arrays[0])
    out = torch.empty((len(arrays), *size, *first.shape[len(size) :]), dtype=first.dtype, pin_memory=pinned)
    for room, array in zip(out, arrays, strict=True):
        for axis, (have, want) in enumerate(zip(array.shape, size, strict=False)):
            room.narrow(axis, have, want - have).zero_()
        room[tuple(slice(n) for n in array.shape[: len(size)])] = torch.from_numpy(array)
    return out


def _pin(tensor: Tensor, pinned: bool) -> Tensor:
    return tensor.pin_memory() if pinned else tensor
