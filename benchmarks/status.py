"""How long `status` takes over 1,000 shards.

    python -m benchmarks.status [--quick] [--json FILE]

Features of 1,000 tiny scenes in shards of one image, really extracted and committed; then the whole command, process
start included.
"""

from __future__ import annotations

import tempfile

from benchmarks.measure import Check, Options, Report, Side, child, main


def run(options: Options) -> Report:
    """Make the shards, then ask."""
    images = 8 if options.quick else 1000
    settings = [f"shapes.train_scenes={images // 2}", f"shapes.val_scenes={images // 2}", "shapes.image_size=32"]
    settings += ["features.size=32", "features.shifts=1", "pseudo_masks.block=null", "clip.weights=random"]
    settings += ["features.decoder_blocks=[1]", "runtime.shard_size=1", f"runtime.threads={options.threads}"]
    with tempfile.TemporaryDirectory() as folder:
        common = ["--dataset", "shapes", "--artifacts", folder, "--set", *settings]
        child(["ExtractFeatures", *common, "--quiet"], options.threads)
        times = [child(["status", *common])[0] for _ in range(options.rounds + 1)][1:]
        text = child(["status", *common])[2]
    if "ExtractFeatures" not in text or "fresh" not in text:
        raise SystemExit(f"status does not show the shards:\n{text}")
    side = Side("status", "s", tuple(times))
    return Report(
        f"{images} shards of one image",
        [side],
        [Check("status", side.median, None if options.quick else 1.0, unit="s")],
    )


if __name__ == "__main__":
    main(__doc__, run)
