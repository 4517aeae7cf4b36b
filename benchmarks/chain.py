"""What features, pseudo masks and regions cost together beside the extraction of features alone.

    python -m benchmarks.chain [--quick] [--json FILE]

The three stages on the same images, one after the other in one process, each whole (read, compute, write). On a GPU
the three together should keep at least 75 % of the throughput of extraction alone.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Check, Options, Report, Side, main, synchronise, workspace
from cache.h5 import ShardWriter
from stages import features, pseudo_masks, regions


def run(options: Options) -> Report:
    """Measure the stages in turn."""
    count = 2 if options.quick else 64 if options.device == "cuda" else 4
    modules: dict[str, Any] = {"features": features, "pseudo_masks": pseudo_masks, "regions": regions}
    samples: dict[str, list[float]] = {name: [] for name in modules}
    facts: dict[str, float] = {}
    with workspace(options, count, "regions.method=attention") as space, tempfile.TemporaryDirectory() as folder:
        space.make("EmbedRegions")  # also loads the libraries
        for _ in range(min(options.rounds, 3)):
            for slug, module in modules.items():
                ctx, shard = space.context(slug, Path(folder)), space.shard(slug)
                path = Path(folder) / f"{slug}.h5"
                synchronise()
                start = time.perf_counter()
                with ShardWriter(path, module.KIND, module.fields(ctx.config)) as writer:
                    module.run_shard(ctx, shard, writer)
                synchronise()
                samples[slug].append(1000 * (time.perf_counter() - start) / len(shard.ids))
                facts[f"{slug}_bytes_per_image"] = path.stat().st_size / len(shard.ids)
    sides = [Side(name, "ms an image", tuple(values)) for name, values in samples.items()]
    facts |= {f"{side.name}_ms_per_image": side.median for side in sides}
    share = 100 * sides[0].median / sum(side.median for side in sides)
    target = 75.0 if options.device == "cuda" and not options.quick else None
    return Report(
        f"{space.config.clip.model}, {space.config.features.size} px, {space.images}, {space.config.clip.precision}, "
        "regions by attention",
        sides,
        [Check("throughput of all three over extraction alone", share, target, "at least", "%")],
        facts,
    )


if __name__ == "__main__":
    main(__doc__, run)
