"""ClusterPseudoMasks where `features.persist` is false: features, pseudo masks and regions of an image in one pass.

Features are what fills a disk (6 MB an image for ViT-B/16 at 512 pixels, against 15 kB for all that is made of them),
and training can do without: `train.features=online`. Here they live in memory only, from the forward pass until an
image's regions are embedded. The embeddings are written beside the pseudo masks, and EmbedRegions takes them over: CLIP
runs once. Arrays are those of the separate stages, bit for bit on the CPU. Source: choice.
"""

from __future__ import annotations

from itertools import islice, tee
from typing import TYPE_CHECKING, Any

from split_matching.cache.shard_format import Field
from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.shard_writer import ShardWriter
from split_matching.stages.candidates import features, pseudo_masks, regions
from split_matching.stages.candidates.clustering import field_to_cluster
from split_matching.stages.candidates.extractor import Arrays, Extractor
from split_matching.stages.candidates.region_counts import count_regions
from split_matching.stages.candidates.region_embedding import embed_regions
from split_matching.stages.ground.context import Shard, StageContext
from split_matching.stages.ground.device import images_at_once
from split_matching.stages.ground.ordered_map import ordered_map

if TYPE_CHECKING:
    from torch import Tensor

KIND = pseudo_masks.KIND


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `labels` as in `pseudo_masks`, `embeddings` as in `regions`."""
    return {**pseudo_masks.fields(config), **regions.fields(config)}


def summarise(shards: ShardSet) -> dict[str, Any]:
    """Numbers of the whole split, see `count_regions`."""
    return count_regions(shards)


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Make and write one shard, in id order.

    Threads read the next images, run CLIP on some, cluster those that CLIP is done with, and embed their regions.
    """
    extractor, names = Extractor(ctx), features.fields(ctx.config)
    field = field_to_cluster(names, ctx.config.pseudo_masks)
    loader = regions.ItemLoader(ctx, extractor.clip, names)
    images = ((image_id, arrays[field], arrays) for image_id, arrays in extractor.extract_all(shard.ids))
    masks, done = pseudo_masks.make_pseudo_masks(ctx, images), 0

    def embed(batch: list[tuple[str, Any, Arrays]]) -> list[Tensor]:
        items = [loader.load(image_id, labels, arrays.__getitem__) for image_id, labels, arrays in batch]
        return embed_regions(extractor.clip, items, ctx.config.regions)

    batches, jobs = tee(iter(lambda: list(islice(masks, extractor.batch)), []))
    for batch, embeddings in zip(batches, ordered_map(embed, jobs, images_at_once(ctx)), strict=True):
        for (image_id, labels, _), rows in zip(batch, embeddings, strict=True):
            writer.add(image_id, labels=labels, embeddings=rows.half().numpy())
            done += 1
            ctx.progress(done, len(shard.ids))
