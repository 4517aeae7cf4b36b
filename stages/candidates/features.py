"""ExtractFeatures: dense CLIP features, token maps and the image embedding of every image."""

from __future__ import annotations

from typing import Any

from split_matching.cache.background_writer import BackgroundWriter
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_writer import ShardWriter
from split_matching.stages.candidates.extractor import Extractor
from split_matching.stages.ground.context import Shard, StageContext

KIND = "features"


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard, all float16: `cls` (D), `dense` (h, w, D), `tokens_<block>` (h, w, width).

    `prefix_<block>` (p, width): that block's tokens before those of the patches, from which EmbedRegions resumes.
    With `features.shifts` s > 1 also `stitched` (s*h, s*w, D or width): what is to be clustered, at sub-token offsets.
    """
    maps = [f"tokens_{block}" for block in config.features.decoder_blocks]
    if config.features.shifts > 1:
        maps.append("stitched")
    vectors = {f"prefix_{block}": Field("float16", lead=1) for block in config.features.decoder_blocks}
    return {"cls": Field("float16", lead=0), **vectors} | {name: Field("float16", lead=2) for name in ["dense", *maps]}


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Extract and write one shard, in id order; reading, CLIP, checksums and writing overlap."""
    with BackgroundWriter(writer) as background:
        for done, (image_id, arrays) in enumerate(Extractor(ctx).extract_all(shard.ids), 1):
            background.add(image_id, **arrays)
            ctx.progress(done, len(shard.ids))
