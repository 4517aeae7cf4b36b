"""What ExtractFeatures costs beside the bare forward pass of the same images.

    python -m benchmarks.extraction [--quick] [--json FILE]

The whole stage decodes, preprocesses, runs CLIP, converts and writes a shard with checksums. The other side gets the
preprocessed images from memory and throws the result away. Same images, order, batch, precision and threads.

A third number is the stage with CLIP's results at hand: what a GPU cannot be faster than.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Check, Options, Report, main, paired, ratio, workspace
from split_matching.cache.shard_writer import ShardWriter
from split_matching.stages.candidates import features
from split_matching.stages.candidates.extractor import Arrays, Extractor


def run(options: Options) -> Report:
    """Measure the stage and the forward passes in turn."""
    count, more = (2, 1) if options.quick else (64, 2) if options.device == "cuda" else (6, 8)
    with workspace(options, count * more) as space, tempfile.TemporaryDirectory() as folder:
        space.make("PrepareDataset")
        ctx, everything = space.context("features", Path(folder)), space.shard("features")
        shard = replace(everything, ids=everything.ids[:count])
        extractor = Extractor(ctx)
        images = [extractor.load(image_id) for image_id in shard.ids]
        path = Path(folder) / "shard.h5"

        def stage() -> None:
            with ShardWriter(path, features.KIND, features.fields(ctx.config)) as writer:
                features.run_shard(ctx, shard, writer)

        def bare() -> None:
            sizes: dict[tuple[int, ...], list[int]] = {}
            for index, image in enumerate(images):
                sizes.setdefault(tuple(image.shape), []).append(index)
            for members in sizes.values():
                for first in range(0, len(members), extractor.batch):
                    views = [images[index] for index in members[first : first + extractor.batch]]
                    extractor.clip.dense(torch.cat(views), extractor.config.variant, extractor.config.decoder_blocks)

        def without_clip() -> None:
            with (
                patch.object(Extractor, "extract", at_hand),
                ShardWriter(path, features.KIND, features.fields(ctx.config)) as writer,
            ):
                features.run_shard(ctx, everything, writer)

        ready = {tuple(image.shape): extractor.extract([image])[0] for image in images}

        def at_hand(self: Extractor, given: Sequence[Tensor]) -> list[Arrays]:
            some = next(iter(ready.values()))
            return [ready.get(tuple(image.shape), some) for image in given]

        with FlopCounterMode(display=False) as counter:  # of these images: photographs are not square
            bare()
        rounds = min(options.rounds, 3)
        sides = paired({"whole stage": stage, "bare forward": bare}, rounds, 1000 / len(images), "ms an image")
        whole = ratio(sides, "whole stage", "bare forward")
        size = path.stat().st_size / len(images)
        beside = f"the stage with CLIP's results at hand, {len(everything.ids)} images"
        sides += paired({beside: without_clip}, options.rounds, 1000 / len(everything.ids), "ms an image")
        config = space.config
        return Report(
            f"{config.clip.model}, {config.features.size} px, {space.images}, batch {extractor.batch}, "
            f"{config.clip.precision}",
            sides,
            [Check("whole stage over bare forward", whole, None if options.quick else 1.10)],
            {
                "ms_per_image": sides[0].median,
                "bytes_per_image": size,
                "flop_per_image": counter.get_total_flops() / len(images),
            },
        )


if __name__ == "__main__":
    main(__doc__, run)
