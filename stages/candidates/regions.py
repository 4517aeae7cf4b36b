"""EmbedRegions: one CLIP embedding for each pseudo mask.

Source: paper (CLS tokens of regions). How is a choice: `crop` embeds the masked crop (after CLIP-to-Seg and zsseg),
`attention` gives each region a CLS token that sees the region's patches only, `mean` averages dense features (an
ablation). Where the tokens that enter the last `regions.blocks` blocks are cached (one of `features.decoder_blocks`),
`attention` goes on from there: no image is read, and of ViT-B/16's 12 blocks 9 are saved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.schema import RegionsConfig
from split_matching.stages.data.images import read_image
from split_matching.stages.data.resize import resize_share
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.ground.device import device_of
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import ordered_map
from split_matching.stages.ground.region_map import masks_of

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on cached features does without
    from split_matching.model.clip import FrozenClip

KIND = "regions"
CROPS = 64
"""Crops a forward pass, unless one image has more."""


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `embeddings` (R, D) float16, unit length; row r belongs to region r + 1."""
    return {"embeddings": Field("float16", lead=1)}


def region_crops(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    native: int,
    expand: float,
    fill: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Square crop around every region, everything outside the region filled with one colour.

    Args:
        image: RGB. Shape: (H, W, 3), uint8.
        masks: one a region; they may overlap. Shape: (R, H', W'), bool.
        native: side of the crops in pixels (CLIP's native size).
        expand: crop side over the longer side of the region's box.
        fill: CLIP's mean colour. Shape: (3,), uint8.

    Returns:
        Shape: (R, native, native, 3), uint8.
    """
    height, width = image.shape[:2]
    rows = (np.arange(height) * masks.shape[1] // height)[:, None]
    cols = np.arange(width) * masks.shape[2] // width
    crops = np.empty((len(masks), native, native, 3), np.uint8)
    for region, mask in enumerate(masks):
        inside = mask[rows, cols]  # (H, W)
        y = np.flatnonzero(inside.any(1))
        x = np.flatnonzero(inside.any(0))
        box = (0, 0, height, width) if len(y) == 0 else (y[0], x[0], y[-1] + 1, x[-1] + 1)
        side = max(1, round(max(box[2] - box[0], box[3] - box[1]) * expand))
        top, left = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
        crop = np.broadcast_to(fill, (side, side, 3)).copy()
        part = (slice(box[0] - top, box[2] - top), slice(box[1] - left, box[3] - left))
        window = (slice(box[0], box[2]), slice(box[1], box[3]))
        crop[part][inside[window]] = image[window][inside[window]]
        crops[region] = np.asarray(Image.fromarray(crop).resize((native, native), Image.Resampling.BICUBIC))
    return crops


@dataclass(frozen=True)
class RegionItem:
    """One image, its regions, and what they are embedded from.

    Args:
        masks: one a region; they may overlap. Shape: (R, H', W'), bool.
        dense: dense features, which `mean` averages, and whose grid `attention` uses. Shape: (h, w, D), float32.
        image: RGB; not needed by `mean`, nor by `attention` with `tokens`. Shape: (H, W, 3), uint8.
        tokens: for `attention`, cached output of the tower's plain blocks. Shape: (prefix + h * w, width), float32.
    """

    masks: NDArray[np.bool_]
    dense: NDArray[np.float32]
    image: NDArray[np.uint8] | None = None
    tokens: NDArray[np.float32] | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image where it cannot be done without."""
        if self.image is None:
            raise ValueError("these regions are embedded from pixels: give the image")
        return self.image


def embed_crops(clip: FrozenClip, items: Sequence[RegionItem], expand: float) -> list[Tensor]:
    """CLS embeddings of the masked crops of some images' regions, in forward passes shared by the images."""
    fill = np.array([round(255 * value) for value in clip.mean], np.uint8)
    crops = [
        clip.preprocess(crop, clip.native, clip.native)
        for item in items
        for crop in region_crops(item.pixels, item.masks, clip.native, expand, fill)
    ]
    if not crops:
        return [torch.zeros(0, clip.dim) for _ in items]
    # never less than an image's crops: on the CPU an image comes alone, and is one batch whatever its neighbours
    size = max(CROPS, *(len(item.masks) for item in items))
    parts = [clip.encode_image(torch.stack(crops[i : i + size])) for i in range(0, len(crops), size)]
    embedded = F.normalize(torch.cat(parts).float(), dim=-1).cpu()
    return list(embedded.split([len(item.masks) for item in items]))


def embed_attention(clip: FrozenClip, items: Sequence[RegionItem], blocks: int) -> list[Tensor]:
    """CLS embeddings by masked attention; images of equal grid share forward passes, which cached tokens shorten."""
    groups: dict[tuple[tuple[int, int], bool], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[(item.dense.shape[0], item.dense.shape[1]), item.tokens is None].append(index)
    results: dict[int, Tensor] = {}
    for (grid, from_pixels), members in groups.items():
        chosen = [items[index] for index in members]
        regions = [covered_tokens(item.masks, grid) for item in chosen]
        if from_pixels:
            size = (grid[0] * clip.patch, grid[1] * clip.patch)
            images = torch.stack([clip.preprocess(item.pixels, *size) for item in chosen])
            embedded = clip.encode_regions(images, regions, blocks)
        else:
            tokens = torch.stack([torch.from_numpy(item.tokens) for item in chosen if item.tokens is not None])
            embedded = clip.encode_regions_of(tokens, regions, blocks)
        results.update(zip(members, (F.normalize(e.float(), dim=-1).cpu() for e in embedded), strict=True))
    return [results[index] for index in range(len(items))]


def covered_tokens(masks: NDArray[np.bool_], grid: tuple[int, int]) -> Tensor:
    """Tokens that belong to each region: those it covers by half. (R, H', W') bool -> (R, h * w), bool, never empty."""
    shares = resize_share(masks.astype(np.float32), *grid).reshape(len(masks), grid[0] * grid[1])
    # a region narrower than a token still sees the token that it covers most
    return torch.from_numpy((shares >= 0.5) | (shares >= shares.max(1, keepdims=True, initial=0)))


def embed_mean(dense: NDArray[np.float32], masks: NDArray[np.bool_]) -> Tensor:
    """Mean dense feature of each region, unit length. (h, w, D), (R, H', W') -> (R, D)."""
    shares = torch.from_numpy(resize_share(masks.astype(np.float32), *dense.shape[:2]))
    return F.normalize(torch.einsum("rhw,hwd->rd", shares, torch.from_numpy(dense)), dim=-1)


def embed_regions(clip: FrozenClip, items: Sequence[RegionItem], config: RegionsConfig) -> list[Tensor]:
    """Embed the regions of some images by the method of the config.

    Args:
        clip: the frozen CLIP.
        items: the images; those of one call may share forward passes, which changes last bits.
        config: see RegionsConfig.

    Returns:
        For each image its regions' embeddings, unit length, on the CPU. Shapes: (R, D), float32.
    """
    if config.method == "mean":
        return [embed_mean(item.dense, item.masks) for item in items]
    if config.method == "crop":
        return embed_crops(clip, items, config.expand)
    return embed_attention(clip, items, config.blocks)


class ItemMaker:
    """Puts together what the embedding of an image's regions needs, and no more.

    Args:
        ctx: context of the stage.
        clip: whose tower says which tokens `attention` can go on from.
        features: names of the features that there are, see `stages.candidates.features.fields`.
    """

    def __init__(self, ctx: StageContext, clip: FrozenClip, features: Collection[str]) -> None:
        self.source = open_source(ctx.config.data, ctx.data_root)
        config: RegionsConfig = ctx.config.regions
        self.block, self.needs_image = 0, config.method != "mean"
        if config.method == "attention":
            plain = clip.tower.plain_blocks(config.blocks)
            if f"tokens_{plain}" in features:
                self.block, self.needs_image = plain, False

    def item(self, image_id: str, labels: NDArray[np.uint8], feature: Callable[[str], NDArray[Any]]) -> RegionItem:
        """Return one image's regions.

        Args:
            image_id: which image.
            labels: regions 1..R, 0 is none. Shape: (H', W').
            feature: gives the features of this name, float16.
        """
        dense = feature("dense").astype(np.float32)
        image = read_image(self.source.image_path(image_id)) if self.needs_image else None
        tokens = None
        if self.block:
            first, patches = feature(f"prefix_{self.block}"), feature(f"tokens_{self.block}")
            tokens = np.concatenate([first, patches.reshape(-1, patches.shape[-1])]).astype(np.float32)
        return RegionItem(masks_of(labels), dense, image, tokens)


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Embed the regions of one shard's images, in id order; the next images are read meanwhile.

    On the CPU every image is its own batch, so that its bytes do not depend on its neighbours; see `features`.
    Where features are not kept, the embeddings came with the pseudo masks (see `fused`) and are taken over.
    """
    labels = ctx.inputs["pseudo_masks"].shards(shard.split)
    if "embeddings" in labels.fields:
        for done, image_id in enumerate(shard.ids, 1):
            writer.add(image_id, embeddings=labels.read(image_id, "embeddings"))
            ctx.progress(done, len(shard.ids))
        return
    features, clip = ctx.inputs["features"].shards(shard.split), frozen_clip(ctx)
    maker = ItemMaker(ctx, clip, features.fields)

    def load(ids: Sequence[str]) -> list[RegionItem]:
        return [maker.item(i, labels.read(i, "labels"), partial(features.read, i)) for i in ids]

    size = 1 if device_of(ctx) == "cpu" else ctx.runtime.batch
    chunks = [shard.ids[start : start + size] for start in range(0, len(shard.ids), size)]
    done = 0
    # one thread: a ShardSet is not shared between threads
    for ids, items in zip(chunks, ordered_map(load, chunks, threads=1), strict=True):
        for image_id, embedded in zip(ids, embed_regions(clip, items, ctx.config.regions), strict=True):
            writer.add(image_id, embeddings=embedded.half().numpy())
            done += 1
            ctx.progress(done, len(shard.ids))
