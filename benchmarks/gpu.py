"""What a GPU makes of the pipeline: one table in under eight minutes, without a network.

    python -m benchmarks.gpu [--quick] [--json FILE]      or: make bench-gpu

ViT-B/16 with random weights at 512 px in bfloat16: its forward pass against the rate of a matrix product, as it is and
compiled; ExtractFeatures against that pass; features, pseudo masks and regions together; training from the cache and
online; Evaluate; faiss against torch clustering. Then the data set `shapes` from end to end, and its decoder evaluated
on the GPU and on the CPU, whose metrics should agree. One part that fails, or for which there is no time left, is named
in the first lines, and the others are measured all the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import chain, clustering, extraction, forward, training
from benchmarks.measure import QUICK, Check, Options, Report, Side, Workspace, main, paired, synchronise, workspace
from split_matching.configs.load import load_config
from split_matching.configs.settings import ClipConfig
from split_matching.errors import first_line
from split_matching.model.clip import FrozenClip
from split_matching.stages.inference import evaluate

SECONDS = 360  # after these no other part is begun: the longest takes two minutes
GOAL = 45.0  # percent of the matrix rate, for the forward pass
POINTS = 0.1  # that metrics of GPU and CPU may differ by


def forward_pass(options: Options) -> Report:
    """The forward pass of CLIP, as it is."""
    report = forward.run(options)
    share = report.checks[0].value
    return replace(report, checks=[Check("over the matrix product", share, _goal(options, GOAL), "at least", "%")])


def compiled_pass(options: Options) -> Report:
    """The forward pass through torch.compile, beside the same pass as it is."""
    gpu = options.device == "cuda"
    name, size, batch = ("shapes-vit", 64, 2) if options.quick else ("ViT-B-16", 512, 16)
    clip = FrozenClip(ClipConfig(model=name, weights="random"), options.device)
    images = torch.randn(batch, 3, size, size, device=options.device)
    blocks = (2, 4) if options.quick else (3, 6, 9, 12)

    def plain(given: torch.Tensor) -> object:
        with torch.autocast(options.device, torch.bfloat16, enabled=gpu):
            return clip.dense(given, "value", blocks)

    # without a GPU only that it can be traced is of interest
    compiled = torch.compile(plain, backend="inductor" if gpu else "eager")
    sides = paired(
        {"as it is": lambda: plain(images), "compiled": lambda: compiled(images)},
        options.rounds,
        1000 / batch,
        "ms an image",
    )
    return Report(f"batch {batch}", sides, [Check("compiled faster by", sides[0].median / sides[1].median)])


def evaluation(options: Options) -> Report:
    """Evaluate on images of 512 pixels, after two steps of training."""
    images = 4 if options.quick else 64  # of which a quarter is validated
    settings = ("train.steps=2", "train.batch=2", "regions.method=attention")
    with workspace(options, images, *settings) as space:
        space.make("TrainDecoder")
        count = len(space.plan["evaluate"].inputs()["features"].shards("val").ids)
        took = [1000 * _evaluate(space, options.device)[0] / count for _ in range(min(2, options.rounds))]
    return Report(f"{count} images", [Side("whole stage", "ms an image", tuple(took))], [])


def embedded_data(options: Options) -> Report:
    """`shapes` from an empty cache to its report, and the same decoder evaluated on both devices."""
    with tempfile.TemporaryDirectory(prefix="split-matching-bench-") as folder:
        small = ("shapes.train_scenes=6", "shapes.val_scenes=2", "train.steps=2", *QUICK) if options.quick else ()
        runtime = (f"runtime.artifacts={json.dumps(folder)}", f"runtime.device={options.device}")
        space = Workspace(Path(folder), load_config("shapes", overrides=[*small, *runtime]), "shapes")
        start = time.perf_counter()
        space.make("Report")
        whole = time.perf_counter() - start
        here, there = (_evaluate(space, device)[1] for device in (options.device, "cpu"))
    apart = max(abs(here[name] - there[name]) for name in here)
    return Report(
        "the decoder that was trained here",
        [Side("Report from an empty cache", "s", (whole,))],
        [Check("metrics of both devices differ by", apart, _goal(options, POINTS), unit="points")],
        {f"shapes_{name}": value for name, value in here.items()},
    )


def _evaluate(space: Workspace, device: str) -> tuple[float, dict[str, float]]:
    """Run Evaluate on a device. Returns seconds, and its metrics in percent."""
    with tempfile.TemporaryDirectory() as folder:
        ctx = space.context("evaluate", Path(folder))
        ctx = replace(ctx, runtime=ctx.runtime.model_copy(update={"device": device}))
        synchronise()
        start = time.perf_counter()
        found = evaluate.run(ctx)
        synchronise()
        return time.perf_counter() - start, {name: float(value) for name, value in found.items()}


def _goal(options: Options, target: float) -> float | None:
    return None if options.quick else target


PARTS: dict[str, Callable[[Options], Report]] = {
    "forward": forward_pass,
    "extraction": extraction.run,
    "chain": chain.run,
    "training": training.run,
    "evaluate": evaluation,
    "clustering": clustering.run,
    "shapes": embedded_data,
    "compiled": compiled_pass,  # last: it may take long, or need a compiler that is not there
}


def run(options: Options) -> Report:
    """Run all parts in turn, as far as the time allows."""
    options = replace(options, rounds=min(3, options.rounds))
    notes: list[str] = []
    whole, start = Report("", [], []), time.monotonic()
    for name, part in PARTS.items():
        spent = time.monotonic() - start
        print(f"{name}, after {spent:.0f} s", file=sys.stderr, flush=True)
        if spent > SECONDS:
            notes.append(f"{name}: not run, there was no time left")
            continue
        try:
            report = part(options)
        except (Exception, SystemExit) as error:  # a stage that fails ends its part, not the others
            traceback.print_exc()
            notes.append(f"{name}: failed ({first_line(error)})")
            continue
        whole.sides += [replace(side, name=f"{name}: {side.name}") for side in report.sides]
        whole.checks += [replace(check, what=f"{name}: {check.what}") for check in report.checks]
        whole.facts |= {f"{name}_{key}": value for key, value in report.facts.items()}
        notes.append(f"{name}: {report.setting}")
    return replace(whole, setting="\n".join(notes))


if __name__ == "__main__":
    main(__doc__, run)
