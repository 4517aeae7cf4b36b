"""EmbedRegions: one CLIP embedding for each pseudo mask.

Source: paper (CLS tokens of regions). How is a choice: `crop` embeds the masked crop (after CLIP-to-Seg and zsseg),
`attention` gives each region a CLS token that sees the region's patches only, `mean` averages dense features (an
ablation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cache.h5 import Field, ShardWriter
from configs.schema import RegionsConfig
from model.clip import FrozenClip
from stages.context import Shard, StageContext
from stages.datasets import open_source
from stages.datasets.images import read_image
from stages.frozen import frozen_clip
from stages.resize import resize_share

KIND = "regions"


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `embeddings` (R, D) float16, unit length; row r belongs to region r + 1."""
    return {"embeddings": Field("float16", lead=1)}


def masks_of(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masks of the regions 1..R of a label map. (H', W') uint8 -> (R, H', W') bool."""
    numbers = np.arange(1, int(labels.max(initial=0)) + 1, dtype=np.uint8)
    return np.asarray(labels[None] == numbers[:, None, None])


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


def embed_crops(clip: FrozenClip, image: NDArray[np.uint8], masks: NDArray[np.bool_], expand: float) -> Tensor:
    """CLS embeddings of the masked crops of one image's regions. Returns (R, D), unit length, on the CPU."""
    fill = np.array([round(255 * value) for value in clip.mean], np.uint8)
    crops = region_crops(image, masks, clip.native, expand, fill)
    if len(crops) == 0:
        return torch.zeros(0, clip.dim)
    batch = torch.stack([clip.preprocess(crop, clip.native, clip.native) for crop in crops])
    return F.normalize(clip.encode_image(batch).float(), dim=-1).cpu()


def embed_attention(
    clip: FrozenClip, image: NDArray[np.uint8], masks: NDArray[np.bool_], grid: tuple[int, int], blocks: int
) -> Tensor:
    """CLS embeddings by masked attention for one image's regions. Returns (R, D), unit length, on the CPU."""
    shares = resize_share(masks.astype(np.float32), *grid).reshape(len(masks), grid[0] * grid[1])
    # a region narrower than a token still sees the token that it covers most
    tokens = torch.from_numpy((shares >= 0.5) | (shares >= shares.max(1, keepdims=True, initial=0)))
    pixels = clip.preprocess(image, grid[0] * clip.patch, grid[1] * clip.patch)[None]
    return F.normalize(clip.encode_regions(pixels, [tokens], blocks)[0].float(), dim=-1).cpu()


def embed_mean(dense: NDArray[np.float32], masks: NDArray[np.bool_]) -> Tensor:
    """Mean dense feature of each region, unit length. (h, w, D), (R, H', W') -> (R, D)."""
    shares = torch.from_numpy(resize_share(masks.astype(np.float32), *dense.shape[:2]))
    return F.normalize(torch.einsum("rhw,hwd->rd", shares, torch.from_numpy(dense)), dim=-1)


def embed_regions(
    clip: FrozenClip,
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    dense: NDArray[np.float32],
    config: RegionsConfig,
) -> Tensor:
    """Embed one image's regions by the method of the config.

    Args:
        clip: the frozen CLIP.
        image: RGB. Shape: (H, W, 3), uint8.
        masks: Shape: (R, H', W'), bool.
        dense: dense features, which `mean` averages, and whose grid `attention` uses. Shape: (h, w, D).
        config: see RegionsConfig.

    Returns:
        Shape: (R, D), float32, unit length, on the CPU.
    """
    if config.method == "mean":
        return embed_mean(dense, masks)
    if config.method == "crop":
        return embed_crops(clip, image, masks, config.expand)
    return embed_attention(clip, image, masks, (dense.shape[0], dense.shape[1]), config.blocks)


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Embed the regions of one shard's images, in id order."""
    labels = ctx.inputs["pseudo_masks"].shards(shard.split)
    features = ctx.inputs["features"].shards(shard.split)
    source = open_source(ctx.config.data, ctx.data_root)
    clip = frozen_clip(ctx)
    for done, image_id in enumerate(shard.ids, 1):
        image = read_image(source.image_path(image_id))
        dense = features.read(image_id, "dense").astype(np.float32)
        embedded = embed_regions(clip, image, masks_of(labels.read(image_id, "labels")), dense, ctx.config.regions)
        writer.add(image_id, embeddings=embedded.half().numpy())
        ctx.progress(done, len(shard.ids))
