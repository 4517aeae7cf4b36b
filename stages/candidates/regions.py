"""EmbedRegions: one CLIP embedding for each pseudo mask, see `stages.candidates.region_embedding`.

Where the tokens that enter the last `regions.blocks` blocks are cached (one of `features.decoder_blocks`), the method
`attention` resumes from there: no image is read, and of ViT-B/16's 12 blocks 9 are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.settings import RegionsConfig
from split_matching.stages.candidates.region_embedding import RegionItem, embed_regions
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.ground.device import images_at_once, images_per_batch
from split_matching.stages.ground.frozen_clip import frozen_clip
from split_matching.stages.ground.ordered_map import ordered_map
from split_matching.stages.ground.region_map import masks_of

if TYPE_CHECKING:  # open_clip takes seconds to import
    from split_matching.model.clip import FrozenClip

KIND = "regions"


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `embeddings` (R, D) float16, unit length; row r belongs to region r + 1."""
    return {"embeddings": Field("float16", lead=1)}


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Embed the regions of one shard's images, in id order; the next images are read meanwhile.

    On the CPU every image is its own batch, and some are worked on side by side, see `images_at_once`.
    """
    maps = ctx.inputs["pseudo_masks"].shards(shard.split)
    if "embeddings" in maps.fields:
        _copy_embeddings(ctx, shard, maps, writer)
        return
    features, clip = ctx.inputs["features"].shards(shard.split), frozen_clip(ctx)
    loader = ItemLoader(ctx, clip, features.fields)

    def load(ids: Sequence[str]) -> list[RegionItem]:
        return [loader.load(i, maps.read(i, "labels"), partial(features.read, i)) for i in ids]

    size = images_per_batch(ctx)
    batches = [shard.ids[start : start + size] for start in range(0, len(shard.ids), size)]
    done = 0
    loaded = ordered_map(load, batches, threads=1)  # one thread: a ShardSet is not shared between threads
    embedded = ordered_map(lambda items: embed_regions(clip, items, ctx.config.regions), loaded, images_at_once(ctx))
    for ids, rows in zip(batches, embedded, strict=True):
        for image_id, embeddings in zip(ids, rows, strict=True):
            writer.add(image_id, embeddings=embeddings.half().numpy())
            done += 1
            ctx.progress(done, len(shard.ids))


def _copy_embeddings(ctx: StageContext, shard: Shard, maps: ShardSet, writer: ShardWriter) -> None:
    """Take over the embeddings that came with the pseudo masks where features are not kept, see `one_pass`."""
    for done, image_id in enumerate(shard.ids, 1):
        writer.add(image_id, embeddings=maps.read(image_id, "embeddings"))
        ctx.progress(done, len(shard.ids))


class ItemLoader:
    """Loads what the embedding of an image's regions needs, and no more.

    Args:
        ctx: context of the stage.
        clip: whose tower says which tokens `attention` can resume from.
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

    def load(self, image_id: str, labels: NDArray[np.uint8], feature: Callable[[str], NDArray[Any]]) -> RegionItem:
        """Return one image's regions.

        Args:
            image_id: which image.
            labels: the region map. Shape: (H', W').
            feature: gives the features of this name, float16.
        """
        dense = feature("dense").astype(np.float32)
        image = read_image(self.source.image_path(image_id)) if self.needs_image else None
        tokens = None
        if self.block:
            first, patches = feature(f"prefix_{self.block}"), feature(f"tokens_{self.block}")
            tokens = np.concatenate([first, patches.reshape(-1, patches.shape[-1])]).astype(np.float32)
        return RegionItem(masks_of(labels), dense, image, tokens)
