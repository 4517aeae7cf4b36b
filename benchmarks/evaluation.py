"""What labels and counts for every gamma cost beside the way it was, and beside mmsegmentation's post-processing.

    python -m benchmarks.evaluation [--quick] [--json FILE]

All start from the same class scores of an image, at the pixels that CLIP saw. `as it was`: for each gamma all classes
are resampled to the image, and the best one is taken. `mmsegmentation`: one resampling, argmax, and histograms for the
IoU, for one gamma; its formula as recalled, without its code. `scores` is the step before: from the votes and masks of
160 queries to those scores. Random values, one thread. The labels are compared too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import ROOT, Check, Options, Report, Side, main, paired, ratio
from split_matching.configs.settings import EvaluateConfig
from split_matching.model.resampling import Size
from split_matching.model.votes import normalise_scores
from split_matching.stages.inference.decoder_scores import count_votes
from split_matching.stages.inference.evaluate import count_labels
from split_matching.stages.inference.metrics import ConfusionMatrix

# name: classes, pixels that CLIP saw, pixels of the image
SIZES: dict[str, tuple[int, Size, Size]] = {
    "24 classes, 64x64": (24, (64, 64), (64, 64)),
    "21 classes, 375x500": (21, (384, 512), (375, 500)),
    "171 classes, 480x640": (171, (384, 512), (480, 640)),
    "2 classes, 6000x8000": (2, (384, 512), (6000, 8000)),
}
QUICK: dict[str, tuple[int, Size, Size]] = {"5 classes, 60x80": (5, (48, 64), (60, 80))}
LARGE = (171, (384, 512), (6000, 8000))
QUERIES, MASKS = 160, (96, 128)
ROUNDS = 3
IGNORE = 255


def example(classes: int, seen_pixels: Size, size: Size) -> tuple[Tensor, NDArray[np.bool_], NDArray[np.uint8]]:
    """Scores that sum to 1 at every pixel, which classes are seen, and a truth with some pixels of no class."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(classes, *seen_pixels, generator=generator).pow_(8)
    scores.div_(scores.sum(0))
    truth = np.random.default_rng(0).integers(0, classes + 1, size, np.uint8)
    truth[truth == classes] = IGNORE
    return scores, np.arange(classes) < classes * 3 // 4, truth


def as_it_was(scores: Tensor, seen: NDArray[np.bool_], truth: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """The confusion matrix for each gamma, each from all classes at all pixels."""
    found = []
    for gamma in EvaluateConfig().gamma_sweep:
        full = F.interpolate(scores[None], truth.shape, mode="bilinear", align_corners=False)[0]
        labels = (full - gamma * torch.from_numpy(seen)[:, None, None].to(full.dtype)).argmax(0)
        confusion = ConfusionMatrix(len(scores))
        confusion.update(truth, labels.to(torch.uint8).numpy(), IGNORE)
        found.append(confusion.counts)
    return found


def as_it_is(scores: Tensor, seen: NDArray[np.bool_], truth: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """The same from one look at every pixel."""
    return [own.counts for own in count_labels(truth, scores, seen, EvaluateConfig().gamma_sweep)[1]]


def mmsegmentation(scores: Tensor, truth: NDArray[np.uint8]) -> list[Tensor]:
    """Areas of intersection, prediction and truth of each class, by one argmax."""
    classes, label = len(scores), torch.from_numpy(truth)
    full = F.interpolate(scores[None], truth.shape, mode="bilinear", align_corners=False).squeeze(0)
    prediction = full.argmax(dim=0)
    known = label != IGNORE
    prediction, label = prediction[known], label[known]
    areas = (prediction[prediction == label], prediction, label)
    return [torch.histc(values.float(), bins=classes, min=0, max=classes - 1) for values in areas]


def scores_as_they_were(votes: Tensor, masks: Tensor, size: Size) -> Tensor:
    """Class scores from votes and masks, all masks at once."""
    inside = F.interpolate(masks, size, mode="bilinear", align_corners=False).sigmoid_()
    return normalise_scores(torch.einsum("bqc,bqhw->bchw", votes, inside))


def measure(name: str, classes: int, seen_pixels: Size, size: Size, rounds: int) -> list[Side]:
    """All three ways in turn; the counts of the first two are compared."""
    scores, seen, truth = example(classes, seen_pixels, size)
    counted: dict[str, list[Any]] = {}
    ways = {
        f"{name}: now": lambda: counted.update(now=as_it_is(scores, seen, truth)),
        f"{name}: as it was": lambda: counted.update(before=as_it_was(scores, seen, truth)),
        f"{name}: mmsegmentation": lambda: counted.update(theirs=mmsegmentation(scores, truth)),
    }
    sides = paired(ways, rounds, unit="ms an image")
    if not all(np.array_equal(one, other) for one, other in zip(counted["now"], counted["before"], strict=True)):
        raise SystemExit(f"{name}: the confusion matrices differ: the comparison means nothing")
    return sides


def measure_large(classes: int, seen_pixels: Size, size: Size) -> dict[str, float]:
    """Seconds of the CPU for one image, and the memory in MB that it takes, with its scores and its truth."""
    imported = _memory("VmRSS")
    scores, seen, truth = example(classes, seen_pixels, size)
    start = time.process_time()
    as_it_is(scores, seen, truth)
    return {"seconds": time.process_time() - start, "mb": _memory("VmHWM") - imported}


def _memory(kind: str) -> float:
    """Memory of this process now (VmRSS) or at most so far (VmHWM), in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024 / 1e6


def measure_large_apart() -> dict[str, float]:
    """The same in a process of its own, whose memory nothing else has used."""
    code = "import json, torch; from benchmarks.evaluation import LARGE, measure_large\n"
    code += "torch.set_num_threads(1); print(json.dumps(measure_large(*LARGE)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(options: Options) -> Report:
    """Measure all sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sizes, rounds = QUICK if options.quick else SIZES, min(options.rounds, ROUNDS)
    sides: list[Side] = []
    checks: list[Check] = []
    goals: dict[str, tuple[Any, Any]] = {"171 classes, 480x640": (6, 1)}  # over as it was, over mmsegmentation
    for name, size in sizes.items():
        sides += measure(name, *size, 1 if size[2][0] > 1000 else rounds)
        before, theirs = goals.get(name, (None, None))
        faster = ratio(sides, f"{name}: as it was", f"{name}: now")
        checks.append(Check(f"{name}, faster than it was by", faster, before, "at least"))
        faster = ratio(sides, f"{name}: mmsegmentation", f"{name}: now")
        checks.append(Check(f"{name}, faster than mmsegmentation by", faster, theirs, "at least"))
    large = measure_large(*QUICK["5 classes, 60x80"]) if options.quick else measure_large_apart()
    sides.append(Side("171 classes, 6000x8000: now", "CPU s an image", (large["seconds"],)))
    for what, value, goal, unit in (
        ("171 classes, 6000x8000", large["seconds"], 30.0, "CPU s"),
        ("171 classes, 6000x8000, memory", large["mb"], 1000.0, "MB"),
    ):
        checks.append(Check(what, value, None if options.quick else goal, unit=unit))
    generator = torch.Generator().manual_seed(0)
    classes, shown, _ = QUICK["5 classes, 60x80"] if options.quick else LARGE
    votes = torch.rand(1, QUERIES, classes, generator=generator)
    masks = 3 * torch.randn(1, QUERIES, *MASKS, generator=generator)
    pair = {
        "scores: now": lambda: count_votes(votes, masks, shown),
        "scores: as it was": lambda: scores_as_they_were(votes, masks, shown),
    }
    sides += paired(pair, rounds, unit="ms an image")
    checks.append(Check("scores, faster than it was by", ratio(sides, "scores: as it was", "scores: now")))
    torch.set_num_threads(threads)
    return Report(f"{len(EvaluateConfig().gamma_sweep)} gammas, one thread", sides, checks)


if __name__ == "__main__":
    main(__doc__, run)
