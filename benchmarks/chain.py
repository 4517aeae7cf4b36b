"""What features, pseudo masks and regions cost together beside the extraction of features alone.

    python -m benchmarks.chain [--quick] [--json FILE]

The three stages on the same images, one after the other in one process, each whole (read, compute, write), and the
fused stage that makes pseudo masks and regions without keeping features. On a GPU the three together should keep at
least 75 % of the throughput of extraction alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Check, Options, Report, Side, Workspace, main, synchronise, workspace
from benchmarks.render import SHARD
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_reader import ShardReader
from split_matching.cache.shard_writer import ShardWriter
from split_matching.configs.schema import Config
from split_matching.stages.candidates import features, one_pass, pseudo_masks, regions


def bytes_an_image(path: Path, fields: Mapping[str, Field], shard_size: int) -> float:
    """Bytes of an image in a file of so many: whole chunks are written, so a file of few images is mostly padding."""
    found = ShardReader(path)
    size = path.stat().st_size / len(found.ids)
    if size > 1e6:  # chunks are smaller than an image
        return size
    full = path.with_name(f"full-{path.name}")
    with ShardWriter(full, found.kind, fields) as writer:
        for number in range(shard_size):
            image_id = found.ids[number % len(found.ids)]
            writer.add(f"{number:06}", **{name: found.read(image_id, name) for name in found.fields})
    return full.stat().st_size / shard_size


def run(options: Options) -> Report:
    """Measure the stages in turn."""
    count = 2 if options.quick else 64 if options.device == "cuda" else 4
    samples: dict[str, list[float]] = {}
    facts: dict[str, float] = {}
    with workspace(options, count, "regions.method=attention") as space, tempfile.TemporaryDirectory() as folder:
        space.make("EmbedRegions")  # also loads the libraries
        values = space.config.model_dump()
        values["features"]["persist"], values["train"]["features"] = False, "online"
        unkept = Workspace(space.folder, Config.model_validate(values), space.images)
        stages: tuple[tuple[str, Workspace, str, Any], ...] = (
            ("features", space, "features", features),
            ("pseudo_masks", space, "pseudo_masks", pseudo_masks),
            ("regions", space, "regions", regions),
            ("fused", unkept, "pseudo_masks", one_pass),
        )
        for _ in range(min(options.rounds, 3)):
            for name, place, stage, module in stages:
                ctx, shard = place.context(stage, Path(folder)), space.shard(stage)
                path = Path(folder) / f"{name}.h5"
                synchronise()
                start = time.perf_counter()
                with ShardWriter(path, module.KIND, module.fields(ctx.config)) as writer:
                    module.run_shard(ctx, shard, writer)
                synchronise()
                samples.setdefault(name, []).append(1000 * (time.perf_counter() - start) / len(shard.ids))
                facts[f"{name}_bytes_per_image"] = bytes_an_image(path, module.fields(ctx.config), SHARD)
    sides = [Side(name, "ms an image", tuple(took)) for name, took in samples.items()]
    facts |= {f"{side.name}_ms_per_image": side.median for side in sides}
    alone = sides[0].median
    apart, once = (100 * alone / took for took in (sum(side.median for side in sides[:3]), sides[3].median))
    target = 75.0 if options.device == "cuda" and not options.quick else None
    return Report(
        f"{space.config.clip.model}, {space.config.features.size} px, {space.images}, {space.config.clip.precision}, "
        "regions by attention",
        sides,
        [
            Check("throughput of all three over extraction alone", apart, target, "at least", "%"),
            Check("throughput of the fused stage over extraction alone", once, None, "at least", "%"),
        ],
        facts,
    )


if __name__ == "__main__":
    main(__doc__, run)
