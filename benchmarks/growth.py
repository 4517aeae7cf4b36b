"""What ten times the images cost: time an image of each stage, and peak memory of the whole run.

    python -m benchmarks.growth [--quick] [--json FILE]

`Evaluate --dataset shapes` in both sizes by turns, each in a process and a cache of its own, with few training steps.
Times are the stages' own from the manifests, without imports; memory is the process's peak as the system counted it.
Training keeps decoded items up to `runtime.cache_mb`; it is set so low here that both sizes reach it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.measure import Check, Options, Report, Side, child, main, ratio

STAGES = ("ExtractFeatures", "ClusterPseudoMasks", "EmbedRegions", "Evaluate")
# made beforehand, for they would hide growth: a fifth of what ExtractFeatures took for 100 images
IMPORTS = (
    "split_matching.model.clip",
    *(f"split_matching.stages.candidates.{name}" for name in ("features", "pseudo_masks", "regions")),
    "split_matching.stages.candidates.clustering.multiscale_faiss",
    "split_matching.stages.training.train",
    "split_matching.stages.inference.evaluate",
    "split_matching.stages.inference.predictors.decoder",
)
KEPT_MB = 10
ROUNDS = 3
TINY = ("features.size=32", "shapes.image_size=32", "clip.weights=random", "features.shifts=1", "evaluate.fusion=0.0")


def cost(train: int, options: Options) -> tuple[dict[str, float], float]:
    """Milliseconds an image by stage, and peak memory in MB, of a run with so many training images."""
    held_out = train // 4  # what Evaluate works on
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
    """Run both sizes in turn, as often as fits into a few minutes."""
    few = 4 if options.quick else 200
    times: dict[str, dict[int, list[float]]] = {stage: {few: [], 10 * few: []} for stage in STAGES}
    peaks: dict[int, list[float]] = {few: [], 10 * few: []}
    for number in range(min(options.rounds, ROUNDS)):
        for train in (few, 10 * few) if number % 2 else (10 * few, few):
            of_stage, peak = cost(train, options)
            peaks[train].append(peak)
            for stage in STAGES:
                times[stage][train].append(of_stage[stage])
    sides, checks = [], []
    for stage in STAGES:
        pair = [Side(f"{stage}, {train} training images", "ms an image", tuple(times[stage][train])) for train in peaks]
        sides += pair
        checks.append(Check(f"{stage}, x10", ratio(pair, pair[1].name, pair[0].name), None if options.quick else 1.05))
    pair = [Side(f"peak memory, {train}", "MB", tuple(peaks[train])) for train in peaks]
    memory = Check("peak memory, x10", ratio(pair, pair[1].name, pair[0].name), None if options.quick else 1.10)
    setting = "shapes, a quarter as many validation images, one worker, imports left out"
    return Report(setting, [*sides, *pair], [*checks, memory])


if __name__ == "__main__":
    main(__doc__, run)
