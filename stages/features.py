"""ExtractFeatures: dense CLIP features, token maps and the image embedding of every image.

On the CPU every image is its own batch: matrix kernels may round the same row differently in batches of different
sizes, and the bytes of a shard must not depend on its neighbours. On a GPU images of equal grid share a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from cache.h5 import Field, ShardWriter
from configs.errors import ConfigError
from stages.context import Shard, StageContext
from stages.datasets import open_source
from stages.datasets.images import read_image
from stages.frozen import device_of, frozen_clip

KIND = "features"


def fields(config: Any) -> dict[str, Field]:
    """Schema of a shard: `dense` (h, w, D), `cls` (D), and `tokens_<block>` (h, w, width), all float16."""
    tokens = {f"tokens_{block}": Field("float16", lead=2) for block in config.features.decoder_blocks}
    return {"cls": Field("float16", lead=0), "dense": Field("float16", lead=2), **tokens}


def run_shard(ctx: StageContext, shard: Shard, writer: ShardWriter) -> None:
    """Extract and write one shard, in id order."""
    config = ctx.config.features
    clip = frozen_clip(ctx)
    if max(config.decoder_blocks) > clip.depth or min(config.decoder_blocks) < 1:
        raise ConfigError(
            f"features.decoder_blocks {list(config.decoder_blocks)} does not fit {ctx.config.clip.model}: "
            f"its blocks are 1 to {clip.depth}"
        )
    source = open_source(ctx.config.data, ctx.data_root)
    size = 1 if device_of(ctx) == "cpu" else ctx.runtime.batch

    def load(image_id: str) -> Tensor:
        image = read_image(source.image_path(image_id))
        grid = clip.grid_for(image.shape[0], image.shape[1], config.size, config.resize)
        return clip.preprocess(image, grid[0] * clip.patch, grid[1] * clip.patch)

    done = 0
    for start in range(0, len(shard.ids), 4 * size):
        for image_id, arrays in _forward(clip, shard.ids[start : start + 4 * size], load, size, config):
            writer.add(image_id, **arrays)
            done += 1
            ctx.progress(done, len(shard.ids))


def _forward(clip: Any, ids: tuple[str, ...], load: Any, size: int, config: Any) -> Iterator[tuple[str, Any]]:
    """Run a few batches' worth of images, grouped by grid, and yield results in the order of `ids`."""
    with ThreadPoolExecutor(2) as pool:
        pending: list[Future[Tensor]] = [pool.submit(load, image_id) for image_id in ids]
        images = [future.result() for future in pending]
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[tuple(image.shape)].append(index)
    results: dict[int, dict[str, Any]] = {}
    for members in groups.values():
        for first in range(0, len(members), size):
            batch = members[first : first + size]
            out = clip.dense(torch.stack([images[i] for i in batch]), config.variant, config.decoder_blocks)
            arrays = {"cls": out.cls, "dense": out.dense, **{f"tokens_{b}": t for b, t in out.tokens.items()}}
            halves = {name: value.half().cpu().numpy() for name, value in arrays.items()}
            for row, index in enumerate(batch):
                results[index] = {name: value[row] for name, value in halves.items()}
    for index, image_id in enumerate(ids):
        yield image_id, results[index]
