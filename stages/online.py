"""Images in the loop instead of cached features: augmented training items, and token maps of validation images.

Pseudo masks and region embeddings remain those of the cache, of the whole image and the plain CLIP; the view of a step
only cuts them. What a step sees is a function of (seed, step, index in the batch) alone, so a resumed run is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import sched_getaffinity
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.token_tower import TokenTower, split_patches
from stages.augment import View, distort, draw_view, take_image, take_labels
from stages.context import StageContext
from stages.datasets import open_source
from stages.datasets.images import read_image, read_seen_labels
from stages.frozen import device_of, frozen_clip
from stages.in_order import worker_threads
from stages.predictors import DecoderPredictor
from stages.resize import resize_share
from stages.sliding import Corner, slide_scores

STREAM = 3  # of the seed; 1 and 2 are the order of images and the flips of cached features

Arrays = tuple[
    list[NDArray[np.uint8]],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
]
"""One training item: its image as patches (h, w, patch * patch * 3), the only "token map" before the visual tower; then
seen labels (T,), seen masks (T, H', W'), region embeddings (R, D) and region masks (R, H', W')."""


def token_tower(ctx: StageContext) -> TokenTower:
    """Return the visual tower that turns the patches of a batch into the token maps that the decoder reads."""
    return TokenTower(frozen_clip(ctx), ctx.config.features.decoder_blocks)


class AugmentedImages:
    """Reads and augments training images."""

    def __init__(self, ctx: StageContext) -> None:
        self.config = ctx.config.train
        self.size, self.resize = ctx.config.features.size, ctx.config.features.resize
        self.upsample = ctx.config.decoder.upsample
        self.seen_ids = ctx.config.classes.seen_ids
        self.masks = ctx.inputs["pseudo_masks"].shards("train")
        self.regions = ctx.inputs["regions"].shards("train")
        self.source = open_source(ctx.config.data, ctx.data_root)
        self.clip = frozen_clip(ctx)
        self.crop = self.clip.patch * max(1, round(self.size / self.clip.patch))
        self.pool = worker_threads(ctx.runtime.threads or len(sched_getaffinity(0)))

    def items(self, ids: Sequence[str], step: int, positions: Sequence[int]) -> list[Arrays]:
        """Return the items of one step, in the order of `ids`; `positions` are their places in the whole batch."""
        cached = [(self.masks.read(i, "labels"), self.regions.read(i, "embeddings")) for i in ids]
        # the pool is for the images only: HDF5 files are read by one thread
        return list(self.pool.map(self._item, ids, [step] * len(ids), positions, *zip(*cached, strict=True)))

    def _item(
        self, image_id: str, step: int, index: int, masks: NDArray[np.uint8], embeddings: NDArray[np.float16]
    ) -> Arrays:
        config = self.config
        rng = np.random.default_rng([config.seed, STREAM, step, index])
        image = read_image(self.source.image_path(image_id))
        labels, _ = read_seen_labels(self.source, image_id, self.seen_ids)
        target = max(1, round(self.size * rng.uniform(*config.scale_range)))
        grid = self.clip.grid_for(image.shape[0], image.shape[1], target, self.resize)
        scaled = (grid[0] * self.clip.patch, grid[1] * self.clip.patch)
        view = draw_view(rng, labels, scaled, self.crop, config.cat_max_ratio, config.flip)
        pixels = take_image(image, view)
        if config.photometric:
            pixels = distort(pixels, rng)
        patches = split_patches(pixels, self.clip.patch)
        size = (patches.shape[0] * self.upsample, patches.shape[1] * self.upsample)
        return [patches], *cut_seen(labels, view, size), *cut_regions(masks, embeddings, view, size)


def cut_seen(labels: NDArray[Any], view: View, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Seen classes that a view shows. Labels (H, W) -> (T,) and their coverage of the mask grid (T, *size) in 0..1."""
    cut = take_labels(labels, view)
    seen = np.unique(cut[cut != np.iinfo(cut.dtype).max])
    return seen.astype(np.int64), _shares(cut, seen, size)


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
    cut = take_labels(masks, view)
    left = np.unique(cut[cut > 0])
    return embeddings[left.astype(np.int64) - 1].astype(np.float32), _shares(cut, left, size)


def _shares(labels: NDArray[Any], values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of every cell that each label value covers. (H, W), (K,) -> (K, *size)."""
    return resize_share((labels[None] == values[:, None, None]).astype(np.float32), *size)


class PixelScores:
    """Class scores of any image straight from its pixels: the whole image, or sliding windows.

    Args:
        config: reads `evaluate` and `features`.
        tower: of the frozen CLIP.
        score: from token maps (n, h, w, width) and their pixels to class scores (n, C, h', w').
        prompts: the trained prompts, or None. Shape: (blocks, n, width).
        batch: windows scored at once.
    """

    def __init__(
        self, config: Any, tower: TokenTower, score: DecoderPredictor, prompts: Tensor | None, batch: int
    ) -> None:
        self.config, self.features = config.evaluate, config.features
        self.tower, self.score, self.prompts, self.batch = tower, score, prompts, batch

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the scores of one image at the mask grid, or at the resized image's pixels for several windows.

        Args:
            image: RGB. Shape: (H, W, 3), uint8.

        Returns:
            Shape: (C, H', W').
        """
        clip, config = self.tower.clip, self.config
        sides = (self.features.size, self.features.resize)
        if config.mode == "slide" and config.short_side is not None:
            sides = (config.short_side, "short")
        grid = clip.grid_for(image.shape[0], image.shape[1], *sides)
        size = (grid[0] * clip.patch, grid[1] * clip.patch)
        patch = clip.patch
        side = patch * max(1, round(config.window / patch)) if config.mode == "slide" else max(size)
        window = (min(side, size[0]), min(side, size[1]))
        pixels = take_image(image, View.whole(*size))

        def score(corners: Sequence[Corner]) -> Tensor:
            parts = [pixels[y : y + window[0], x : x + window[1]] for y, x in corners]
            patches = torch.from_numpy(np.stack([split_patches(part, patch) for part in parts]))
            valid = torch.ones(patches.shape[:3], dtype=torch.bool, device=clip.device)
            maps = self.tower(patches.to(clip.device).float(), valid, self.prompts)
            return self.score(maps, [partial(np.asarray, part) for part in parts])

        # a window that was rounded down to whole patches must not leave gaps
        return slide_scores(size, window, min(config.stride, side), self.batch, score)


class ImageScores:
    """Class scores of validation images straight from their pixels, see `PixelScores`."""

    def __init__(self, ctx: StageContext, score: DecoderPredictor, prompts: Tensor | None = None) -> None:
        self.source = open_source(ctx.config.data, ctx.data_root)
        # as everywhere: on the CPU the bytes of a result do not depend on what shares its batch
        batch = 1 if device_of(ctx) == "cpu" else ctx.runtime.batch
        self.pixels = PixelScores(ctx.config, token_tower(ctx), score, prompts, batch)

    def __call__(self, image_id: str) -> Tensor:
        """Return the scores of one image. Shape: (C, H', W')."""
        return self.pixels(read_image(self.source.image_path(image_id)))
