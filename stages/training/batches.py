"""Batches of training images: what one image gives, which images a step gets, and how they are stacked.

The order of images is a function of (seed, step) alone, so a resumed run is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
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
from split_matching.stages.data.images import read_seen_labels
from split_matching.stages.data.resize import resize_share
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Features, StageContext
from split_matching.stages.ground.region_map import masks_of

AHEAD = 2  # batches that are read while a step computes


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

    def flipped(self) -> Item:
        """Return the item mirrored left to right."""
        return Item(
            [np.ascontiguousarray(t[:, ::-1]) for t in self.tokens],
            self.seen_labels,
            np.ascontiguousarray(self.seen_masks[..., ::-1]),
            self.region_embeddings,
            np.ascontiguousarray(self.region_masks[..., ::-1]),
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
        self._kept: dict[str, Item] = {}
        self._room = ctx.runtime.cache_mb * 1_000_000

    def load(self, ids: Sequence[str], step: int, positions: Sequence[int]) -> list[Item]:
        """See TrainingImages; about half of the items are mirrored."""
        flips = np.random.default_rng([self.config.seed, 2, step]).random(self.config.batch) < 0.5  # of all processes
        items = [(self.item(image_id), flips[position]) for image_id, position in zip(ids, positions, strict=True)]
        return [item.flipped() if flip and self.config.flip else item for item, flip in items]

    def load_whole(self, ids: Sequence[str]) -> list[Item]:
        """See TrainingImages."""
        return [self.item(image_id) for image_id in ids]

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
        tokens = [self.features.read(image_id, f"tokens_{block}") for block in self.blocks]  # (h, w, width) each
        size = (tokens[0].shape[0] * self.upsample, tokens[0].shape[1] * self.upsample)  # H', W'
        labels, annotated = read_seen_labels(self.source, image_id, self.seen_ids)
        present = np.unique(labels[annotated])
        return Item(
            tokens,
            present.astype(np.int64),
            coverage(labels, present, size),
            self.regions.read(image_id, "embeddings").astype(np.float32),
            resize_share(masks_of(self.masks.read(image_id, "labels")).astype(np.float32), *size),
        )


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
    return [image_id for image_id in ids if image_id not in set(held)], held


def coverage(labels: NDArray[Any], values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of every mask cell that each of some labels covers. (H, W), (K,) -> (K, *size), in 0..1."""
    return resize_share((labels[None] == values[:, None, None]).astype(np.float32), *size)


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
    images: TrainingImages, config: TrainConfig, start: int, group: ProcessGroup, pool: Executor
) -> Iterator[list[Item]]:
    """Yield this process's items of each step from `start` on, read some steps ahead in the pool's one thread."""
    first = range(start, min(start + AHEAD, config.steps))
    ahead = [pool.submit(load_batch, images, config, step, group) for step in first]
    for step in range(start, config.steps):
        items = ahead.pop(0).result()
        if step + AHEAD < config.steps:
            ahead.append(pool.submit(load_batch, images, config, step + AHEAD, group))
        yield items


# --- how they are stacked ---------------------------------------------------------------------------------------------


def collate(items: list[Item], upsample: int, device: str) -> tuple[list[Tensor], Tensor, Targets]:
    """Pad a batch to its largest grid and its largest numbers of targets.

    Args:
        items: B of them.
        upsample: cells of a mask along a side of a token, H' = upsample * h.
        device: where to.

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
    fine_valid = valid.repeat_interleave(upsample, 1).repeat_interleave(upsample, 2).flatten(1).float()  # (B, P)
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
    """Stack masks (T_i, H', W') into (B, T, P), zero-padded; P = H' * W' of the largest."""
    out = np.zeros((len(masks), max(len(m) for m in masks), *size), np.float32)
    for row, mask in enumerate(masks):
        out[row, : len(mask), : mask.shape[1], : mask.shape[2]] = mask
    return torch.from_numpy(out).flatten(2)
