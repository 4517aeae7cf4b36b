"""ClusterPseudoMasks where `features.persist` is false: features, pseudo masks and regions of an image in one go.

Features are what fills a disk (6 MB an image for ViT-B/16 at 512 pixels, against some kB for all that is made of them),
and training can do without: `train.features=online`. Here they live in memory only, from the forward pass until an
image's regions are embedded. The embeddings are written beside the pseudo masks, and EmbedRegions takes them over: CLIP
runs once. Arrays are those of the separate stages, bit for bit on the CPU. Source: choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.h5 import Field, ShardWriter
from stages import features, pseudo_masks, regions
from stages.context import Shard, StageContext
from stages.in_order import in_order

KIND = pseudo_masks.KIND


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `labels` as in `stages.pseudo_masks`, `embeddings` as in `stages.regions`."""
    return {**pseudo_masks.fields(config), **regions.fields(config)}


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Make and write one shard, in id order.

    This thread runs CLIP; threads read the next images, and others cluster those that CLIP is through with.
    """
    extractor = features.Extractor(ctx)
    names = features.fields(ctx.config)
    maker = regions.ItemMaker(ctx, extractor.clip, names)
    images, done = clustered(ctx, extractor, shard), 0
    while batch := list(islice(images, extractor.batch)):
        items = [maker.item(image_id, labels, arrays.__getitem__) for image_id, arrays, labels in batch]
        embedded = regions.embed_regions(extractor.clip, items, ctx.config.regions)
        for (image_id, _, labels), rows in zip(batch, embedded, strict=True):
            writer.add(image_id, labels=labels, embeddings=rows.half().numpy())
            done += 1
            ctx.progress(done, len(shard.ids))


def clustered(
    ctx: StageContext, extractor: features.Extractor, shard: Shard
) -> Iterator[tuple[str, features.Arrays, NDArray[np.uint8]]]:
    """Ids, features and pseudo masks of a shard's images, in id order."""
    field = pseudo_masks.clustered_field(features.fields(ctx.config), ctx.config.pseudo_masks)
    make = pseudo_masks.clustering(ctx)

    def made(job: tuple[str, features.Arrays]) -> tuple[str, features.Arrays, NDArray[np.uint8]]:
        image_id, arrays = job
        return image_id, arrays, make(image_id, arrays[field])

    with pseudo_masks.single_blas_thread():
        yield from in_order(made, features.extracted(extractor, shard.ids), torch.get_num_threads())
