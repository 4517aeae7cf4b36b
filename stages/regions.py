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


def region_shares(labels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Share of every cell of a grid that each region covers. (H', W') uint8 -> (R, height, width), float32 in 0..1."""
    numbers = np.arange(1, int(labels.max(initial=0)) + 1, dtype=np.uint8)
    return resize_share((labels[None] == numbers[:, None, None]).astype(np.float32), height, width)


def region_crops(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    native: int,
    expand: float,
    fill: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Square crop around every region, everything outside the region filled with one colour.

    Args:
        image: RGB. Shape: (H, W, 3), uint8.
        labels: region numbers 1..R, 0 is none. Shape: (H', W'), uint8.
        native: side of the crops in pixels (CLIP's native size).
        expand: crop side over the longer side of the region's box.
        fill: CLIP's mean colour. Shape: (3,), uint8.

    Returns:
        Shape: (R, native, native, 3), uint8.
    """
    height, width = image.shape[:2]
    rows = (np.arange(height) * labels.shape[0] // height)[:, None]
    cols = np.arange(width) * labels.shape[1] // width
    full = labels[rows, cols]  # (H, W)
    count = int(labels.max(initial=0))
    crops = np.empty((count, native, native, 3), np.uint8)
    for region in range(1, count + 1):
        inside = full == region
        y = np.flatnonzero(inside.any(1))
        x = np.flatnonzero(inside.any(0))
        box = (0, 0, height, width) if len(y) == 0 else (y[0], x[0], y[-1] + 1, x[-1] + 1)
        side = max(1, round(max(box[2] - box[0], box[3] - box[1]) * expand))
        top, left = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
        crop = np.broadcast_to(fill, (side, side, 3)).copy()
        part = (slice(box[0] - top, box[2] - top), slice(box[1] - left, box[3] - left))
        window = (slice(box[0], box[2]), slice(box[1], box[3]))
        crop[part][inside[window]] = image[window][inside[window]]
        crops[region - 1] = np.asarray(Image.fromarray(crop).resize((native, native), Image.Resampling.BICUBIC))
    return crops


def embed_crops(clip: FrozenClip, image: NDArray[np.uint8], labels: NDArray[np.uint8], config: RegionsConfig) -> Tensor:
    """CLS embeddings of the masked crops of one image's regions. Returns (R, D), unit length, on the CPU."""
    fill = np.array([round(255 * value) for value in clip.mean], np.uint8)
    crops = region_crops(image, labels, clip.native, config.expand, fill)
    if len(crops) == 0:
        return torch.zeros(0, clip.dim)
    batch = torch.stack([clip.preprocess(crop, clip.native, clip.native) for crop in crops])
    return F.normalize(clip.encode_image(batch).float(), dim=-1).cpu()


def embed_attention(
    clip: FrozenClip,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    grid: tuple[int, int],
    config: RegionsConfig,
) -> Tensor:
    """CLS embeddings by masked attention for one image's regions. Returns (R, D), unit length, on the CPU."""
    shares = region_shares(labels, *grid).reshape(-1, grid[0] * grid[1])
    # a region narrower than a token still sees the token that it covers most
    tokens = torch.from_numpy((shares >= 0.5) | (shares >= shares.max(1, keepdims=True, initial=0)))
    pixels = clip.preprocess(image, grid[0] * clip.patch, grid[1] * clip.patch)[None]
    return F.normalize(clip.encode_regions(pixels, [tokens], config.blocks)[0].float(), dim=-1).cpu()


def embed_mean(dense: NDArray[np.float32], labels: NDArray[np.uint8]) -> Tensor:
    """Mean dense feature of each region, unit length. (h, w, D), (H', W') -> (R, D)."""
    shares = torch.from_numpy(region_shares(labels, *dense.shape[:2]))
    return F.normalize(torch.einsum("rhw,hwd->rd", shares, torch.from_numpy(dense)), dim=-1)


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Embed the regions of one shard's images, in id order."""
    config: RegionsConfig = ctx.config.regions
    masks = ctx.inputs["pseudo_masks"].shards(shard.split)
    features = ctx.inputs["features"].shards(shard.split)
    source = open_source(ctx.config.data, ctx.data_root)
    for done, image_id in enumerate(shard.ids, 1):
        labels = masks.read(image_id, "labels")
        dense = features.read(image_id, "dense")
        if config.method == "mean":
            embedded = embed_mean(dense.astype(np.float32), labels)
        else:
            clip, image = frozen_clip(ctx), read_image(source.image_path(image_id))
            if config.method == "crop":
                embedded = embed_crops(clip, image, labels, config)
            else:
                embedded = embed_attention(clip, image, labels, (dense.shape[0], dense.shape[1]), config)
        writer.add(image_id, embeddings=embedded.half().numpy())
        ctx.progress(done, len(shard.ids))
