"""What a training step costs on cached features beside features computed in the loop; same model and batch.

    python -m benchmarks.training [--quick] [--json FILE]

TrainDecoder itself, timed from step to step; the first two steps of each run do not count. Nothing is kept in memory
(`runtime.cache_mb=0`): every cached item is read again, as on a data set that is larger than the memory.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Check, Options, Report, Side, Workspace, main, workspace
from split_matching.configs.schema import Config
from split_matching.stages.training import train, train_online
from split_matching.stages.training.batches import CachedImages

SKIPPED = 2


def step_times(space: Workspace) -> list[float]:
    """Milliseconds of each step of one training from scratch, but the first two."""
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        context = space.context("train", Path(folder))
        module = train_online if space.config.train.features == "online" else train
        module.run(replace(context, progress=lambda done, total: stamps.append(time.perf_counter())))
    gaps = [1000 * (after - before) for before, after in pairwise(stamps)]
    return gaps[SKIPPED - 1 :]


def run(options: Options) -> Report:
    """Train a few steps of each kind in turn."""
    gpu = options.device == "cuda"
    images, batch, steps = (4, 2, 4) if options.quick else (64, 16, 12) if gpu else (8, 4, 5)
    settings = (f"train.batch={batch}", f"train.steps={steps}", "runtime.cache_mb=0", "decoder.prompts=0")
    regions = "regions.method=attention"
    with workspace(options, images, regions, *settings) as cached:
        cached.make("EmbedRegions")
        cached.make("EmbedText")
        values = cached.config.model_dump()
        values["train"]["features"] = "online"
        online = Workspace(cached.folder, Config.model_validate(values), cached.images)
        samples: dict[str, list[float]] = {"cached": [], "online": []}
        for _ in range(1 if options.quick else 2):
            samples["cached"] += step_times(cached)
            samples["online"] += step_times(online)
        context = cached.context("train", cached.folder)
        first = CachedImages(context).item(cached.shard("features").ids[0])
        # in plain products, as torch does not count the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step_times(cached)
    sides = [Side(name, "ms a step", tuple(found)) for name, found in samples.items()]
    faster = sides[1].median / sides[0].median
    return Report(
        f"{cached.config.clip.model}, {cached.config.features.size} px, {cached.images}, batch {batch}",
        sides,
        [Check("cached faster than online by", faster, None if options.quick else 3 if gpu else 5, "at least")],
        {
            "cached_ms_per_image": sides[0].median / batch,
            "online_ms_per_image": sides[1].median / batch,
            "flop_per_image": counter.get_total_flops() / steps / batch,
            "bytes_per_image": float(first.bytes),
        },
    )


if __name__ == "__main__":
    main(__doc__, run)
