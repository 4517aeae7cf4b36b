"""Augmented training images, whose token maps are computed in the loop instead of read from the cache.

Pseudo masks and region embeddings remain those of the cache, of the whole image and the plain CLIP; the view of a step
only cuts them. What a step sees is a function of (seed, step, index in the batch) alone, so a resumed run is exact.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from split_matching.configs.settings import TrainConfig
from split_matching.errors import DataError
from split_matching.model.token_encoder import split_patches
from split_matching.stages.data.augment import View, distort, draw_view, take_image
from split_matching.stages.data.images import read_image
from split_matching.stages.data.label_shares import label_shares, present_labels
from split_matching.stages.data.labels import read_seen_labels
from split_matching.stages.data.resize import resize_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import worker_threads
from split_matching.stages.training.batches import Item, hold_out

STREAM = 3  # of the seed; 1 and 2 are the order of images and the flips of cached features


class AugmentedImages:
    """Reads and augments training images.

    Args:
        ctx: context of the stage.

    Raises:
        DataError: there is no training image.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.config: TrainConfig = ctx.config.train
        self.size, self.resize = ctx.config.features.size, ctx.config.features.resize
        self.upsample = ctx.config.decoder.upsample
        self.seen_ids = ctx.config.classes.seen_ids
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.regions = ctx.inputs["regions"].shards("train")
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.ids, self.held_out = hold_out(self.masks.ids, self.config)
        self.clip = frozen_clip(ctx)
        self.crop = self.clip.patch * max(1, round(self.size / self.clip.patch))
        self.pool = worker_threads(torch.get_num_threads())
        self._lock = threading.Lock()

    def load(self, ids: Sequence[str], step: int, positions: Sequence[int]) -> list[Item]:
        """See TrainingImages; every image is augmented."""
        return list(self.pool.map(self._augment, ids, [step] * len(ids), positions))

    def load_whole(self, ids: Sequence[str]) -> list[Item]:
        """See TrainingImages; without regions, as only seen classes are looked at."""
        return list(self.pool.map(self._whole, ids))

    def _whole(self, image_id: str) -> Item:
        image = read_image(self.source.image_path(image_id))
        labels, _ = read_seen_labels(self.source, image_id, self.seen_ids)
        rows, cols = self.clip.grid_for(image.shape[0], image.shape[1], self.size, self.resize)
        view = View.whole(image.shape[:2], rows * self.clip.patch, cols * self.clip.patch)
        patches = split_patches(resize_image(image, view.rows, view.cols), self.clip.patch)
        size = (rows * self.upsample, cols * self.upsample)
        nothing = np.zeros((0, 1), np.float32), np.zeros((0, *size), np.float32)
        return Item([patches], *cut_seen(labels, view, size), *nothing)

    def _augment(self, image_id: str, step: int, index: int) -> Item:
        config = self.config
        with self._lock:  # readers of shards are for one thread at a time
            masks, embeddings = self.masks.read(image_id, "labels"), self.regions.read(image_id, "embeddings")
        rng = np.random.default_rng([config.seed, STREAM, step, index])
        image = read_image(self.source.image_path(image_id))
        labels, _ = read_seen_labels(self.source, image_id, self.seen_ids)
        if labels.shape != image.shape[:2]:  # the window is one of both
            (height, width), (rows, cols) = image.shape[:2], labels.shape
            path = self.source.image_path(image_id)
            raise DataError(f"{path} is {width}x{height}, and its mask {cols}x{rows}: one was replaced; run it again")
        target = max(1, round(self.size * rng.uniform(*config.scale_range)))
        grid = self.clip.grid_for(image.shape[0], image.shape[1], target, self.resize)
        scaled = (grid[0] * self.clip.patch, grid[1] * self.clip.patch)
        view = draw_view(rng, labels, scaled, self.crop, config.cat_max_ratio, config.flip)
        pixels = take_image(image, view)
        if config.photometric:
            pixels = distort(pixels, rng)
        patches = split_patches(pixels, self.clip.patch)
        size = (patches.shape[0] * self.upsample, patches.shape[1] * self.upsample)
        return Item([patches], *cut_seen(labels, view, size), *cut_regions(masks, embeddings, view, size))


def cut_seen(labels: NDArray[Any], view: View, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Seen classes that a view shows. Labels (H, W) -> (T,) and their coverage of the mask grid (T, *size) in 0..1."""
    present = present_labels(labels)
    shares = label_shares(labels, present, *size, view.cells(labels.shape))
    shown = shares.any((1, 2))
    return present[shown], shares[shown]


def cut_regions(
    masks: NDArray[np.uint8], embeddings: NDArray[Any], view: View, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Regions that a view shows; one that was cropped away is no target.

    Args:
        masks: region numbers 1..R, 0 is none. Shape: (H', W'), uint8.
        embeddings: of the whole regions. Shape: (R, D).
        view: what is seen.
        size: mask grid of the crop.

    Returns:
        Embeddings (R', D) float32 and coverage (R', *size) float32 in 0..1 of the regions left.
    """
    numbers = np.arange(1, int(masks.max(initial=0)) + 1)
    shares = label_shares(masks, numbers, *size, view.cells(masks.shape))
    shown = shares.any((1, 2))
    return embeddings[numbers[shown] - 1].astype(np.float32), shares[shown]
