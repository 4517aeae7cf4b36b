"""How fast random images are read from the cache beside np.memmap of the same bytes.

    python -m benchmarks.reads [--quick] [--json FILE]

One token map an image, 32 x 32 x 768 float16, in shards of 128 images with checksums, as training reads them. The
files are in the system's cache of the disk on both sides, so this is the cost of the format, not of the disk. The first
read of an image in a process checks its sums; `cache` is every further one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import Check, Options, Report, main, paired, ratio
from split_matching.cache.shard_format import Field
from split_matching.cache.shard_reader import ShardSet
from split_matching.cache.shard_writer import ShardWriter


def run(options: Options) -> Report:
    """Write the same arrays both ways, then read all in a random order in turn."""
    shards, images, shape = (2, 4, (4, 4, 8)) if options.quick else (2, 128, (32, 32, 768))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, ids = Path(name), list[str]()
        flat = np.lib.format.open_memmap(folder / "flat.npy", "w+", np.float16, (shards * images, *shape))
        for shard in range(shards):
            with ShardWriter(
                folder / f"train-{shard:05d}.h5", "features", {"tokens": Field("float16", lead=2)}
            ) as writer:
                for _ in range(images):
                    ids.append(f"image_{len(ids):06d}")
                    flat[len(ids) - 1] = rng.standard_normal(shape).astype(np.float16)
                    writer.add(ids[-1], tokens=flat[len(ids) - 1])
        flat.flush()
        files = ShardSet(sorted(folder.glob("*.h5")))
        memory = np.load(folder / "flat.npy", mmap_mode="r")
        order = rng.permutation(len(ids))
        assert np.array_equal(files.read(ids[int(order[0])], "tokens"), memory[order[0]])

        def cache() -> None:
            for index in order:
                files.read(ids[int(index)], "tokens")

        def first() -> None:
            fresh = ShardSet(files.paths)
            for index in order:
                fresh.read(ids[int(index)], "tokens")
            fresh.close()

        def memmap() -> None:
            for index in order:
                np.array(memory[int(index)])

        size = 2 * int(np.prod(shape))
        work = {"cache": cache, "cache, first read": first, "np.memmap": memmap}
        sides = paired(work, options.rounds, 1000 / len(ids), "ms an image")
        speed = ratio(sides, "np.memmap", "cache")
        files.close()
    return Report(
        f"{len(ids)} images of {size / 1e6:.2f} MB in {shards} shards, all in the page cache",
        sides,
        [Check("throughput of the cache over np.memmap", speed, None if options.quick else 0.8, "at least")],
        {"gb_per_second": size / sides[0].median / 1e6, "bytes_per_image": size},
    )


if __name__ == "__main__":
    main(__doc__, run)
