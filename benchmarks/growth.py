"""What ten times the images cost: time an image of each stage, and peak memory of the whole run.

    python -m benchmarks.growth [--quick] [--json FILE]

`Evaluate --dataset shapes` twice, each in a process and a cache of its own, with few training steps. Times are the
stages' own from the manifests, without imports; memory is the process's peak as the system counted it. Training keeps
decoded items up to `runtime.cache_mb`; it is set so low here that both sizes reach it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.measure import Check, Options, Report, Side, child, main

STAGES = ("ExtractFeatures", "ClusterPseudoMasks", "EmbedRegions", "Evaluate")
# made beforehand, for they would hide growth: a fifth of what ExtractFeatures took for 100 images
IMPORTS = ("model.clip", *(f"stages.{name}" for name in ("features", "pseudo_masks", "regions", "train", "evaluate")))
KEPT_MB = 10
TINY = ("features.size=32", "shapes.image_size=32", "clip.weights=random", "features.shifts=1", "evaluate.fusion=0.0")


def cost(train: int, options: Options) -> tuple[dict[str, float], float]:
    """Milliseconds an image by stage, and peak memory in MB, of a run with so many training images."""
    held_out = max(1, train // 2)  # what Evaluate works on
    settings = [f"shapes.train_scenes={train}", f"shapes.val_scenes={held_out}", "train.steps=4"]
    settings += [f"runtime.cache_mb={KEPT_MB}"]
    settings += [*(TINY if options.quick else ()), f"runtime.threads={options.threads}"]
    with tempfile.TemporaryDirectory() as folder:
        common = ["--dataset", "shapes", "--artifacts", folder, "--device", options.device]
        _, peak, _ = child(["Evaluate", *common, "--quiet", "--set", *settings], options.threads, IMPORTS)
        times = {}
        for path in Path(folder).glob("shapes/*/*/manifest.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["stage"] in STAGES:
                times[manifest["stage"]] = 1000 * manifest["seconds"] / (manifest["images"] or held_out)
        return times, peak / 1e6


def run(options: Options) -> Report:
    """Run both sizes."""
    few = 2 if options.quick else 100
    small, large = cost(few, options), cost(10 * few, options)
    sides = [
        side
        for stage in STAGES
        for side in (
            Side(f"{stage}, {few} training images", "ms an image", (small[0][stage],)),
            Side(f"{stage}, {10 * few}", "ms an image", (large[0][stage],)),
        )
    ]
    sides += [Side(f"peak memory, {n}", "MB", (cost_[1],)) for n, cost_ in ((few, small), (10 * few, large))]
    free = options.quick
    checks = [Check(f"{stage}, x10", large[0][stage] / small[0][stage], None if free else 1.05) for stage in STAGES]
    checks.append(Check("peak memory, x10", large[1] / small[1], None if free else 1.10))
    why = "" if free else "each size is run once, so a busy moment of the machine shows"
    return Report("shapes, half as many validation images, one worker, imports left out", sides, checks, why=why)


if __name__ == "__main__":
    main(__doc__, run)
