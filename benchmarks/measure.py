"""What every benchmark shares: paired timing, the report with its table and JSON, images, and stages run on them.

A benchmark is `run(options) -> Report` in a module of its own, and `main(__doc__, run)` at its end. Both sides of a
comparison are measured in turn in one process, so that whatever else the machine does hits both; numbers are medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from split_matching.configs.load import load_config
from split_matching.configs.schema import Config
from split_matching.pipeline.experiments.machine import describe_machine
from split_matching.pipeline.run.launch import Options as RunOptions
from split_matching.pipeline.run.launch import ensure
from split_matching.pipeline.stages import make_plan
from split_matching.stages.data.shapes import render_scene, scene_rng
from split_matching.stages.ground.context import Shard, StageContext

ROOT = Path(__file__).parent.parent
PHOTOS = "SPLIT_MATCHING_VOC_MINI"
QUICK = (  # a chain of tiny stages, for smoke tests
    "clip.weights=random",
    "shapes.image_size=64",
    "features.size=64",
    "features.decoder_blocks=[2, 4]",
    "features.shifts=1",
    "pseudo_masks.block=null",
    "decoder.dim=32",
    "decoder.ffn=64",
    "decoder.layers=1",
)
LARGE = (  # ViT-B/16 at 512 pixels, as for photographs
    "clip.model=ViT-B-16",
    "clip.weights=random",
    "features.size=512",
    "features.decoder_blocks=[3, 6, 9, 12]",
    "features.shifts=1",
    "pseudo_masks.block=null",
    "evaluate.fusion=0.0",
)


@dataclass(frozen=True)
class Options:
    """How a benchmark is run."""

    quick: bool = False
    rounds: int = 7
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Side:
    """One measured thing: samples in `unit`, of which the median counts."""

    name: str
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The number that is shown."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Check:
    """A number against a target: `sense` is "at most" or "at least"; without a target it is only reported."""

    what: str
    value: float
    target: float | None = None
    sense: str = "at most"
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.sense == "at most" else self.value >= self.target


@dataclass
class Report:
    """What a benchmark found.

    Args:
        setting: sizes and data, in words.
        sides: what was measured.
        checks: the numbers that matter.
        facts: other numbers that tables are computed from (operations, bytes, images).
        why: where a target is not met, why.
    """

    setting: str
    sides: list[Side]
    checks: list[Check]
    facts: dict[str, float] = field(default_factory=dict)
    why: str = ""


def paired(sides: Mapping[str, Callable[[], Any]], rounds: int, scale: float = 1000.0, unit: str = "ms") -> list[Side]:
    """Time functions in turn, `rounds` times each, after one call of each that does not count.

    Args:
        sides: functions by name.
        rounds: samples of each.
        scale: units in a second, over what one call does.
        unit: of the samples.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds + 1):
        order = list(sides.items())
        for name, work in order if index % 2 else reversed(order):
            synchronise()
            start = time.perf_counter()
            work()
            synchronise()
            if index:
                samples[name].append((time.perf_counter() - start) * scale)
    return [Side(name, unit, tuple(values)) for name, values in samples.items()]


def synchronise() -> None:
    """Wait for a GPU if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(sides: Sequence[Side], first: str, second: str) -> float:
    """Median of the ratios of samples taken in the same round: what slows a round down hits both sides."""
    named = {side.name: side.samples for side in sides}
    return statistics.median(a / b for a, b in zip(named[first], named[second], strict=True))


# --- images and stages ------------------------------------------------------------------------------------------------


class Workspace:
    """Stages run on a few images, without luigi where they are timed.

    Args:
        folder: of the cache.
        config: what is run.
        images: what the images are, in words.
    """

    def __init__(self, folder: Path, config: Config, images: str) -> None:
        self.folder, self.config, self.images = folder, config, images
        self.plan = make_plan(config)

    def make(self, name: str) -> None:
        """Make a stage, and all it needs, through the pipeline."""
        code = ensure(self.plan.stage(name), RunOptions(quiet=True))
        if code:
            raise SystemExit(code)

    def context(self, name: str, out: Path) -> StageContext:
        """What the function of a stage is given; its inputs were made."""
        stage = self.plan[name]
        return StageContext(stage.slice, stage.inputs(), out, stage.config.runtime, stage.data_root)

    def shard(self, name: str) -> Shard:
        """All training images as one shard."""
        return self.plan[name].shards()[0]


@contextmanager
def workspace(options: Options, images: int, *overrides: str) -> Iterator[Workspace]:
    """A temporary cache over photographs where there are any, else over rendered scenes; tiny stages when quick."""
    with tempfile.TemporaryDirectory(prefix="split-matching-bench-") as name:
        runtime = (
            f"runtime.artifacts={json.dumps(name)}",
            f"runtime.device={options.device}",
            "runtime.shard_size=4096",
        )
        precision = "bfloat16" if options.device == "cuda" else "float32"  # as anybody would run it there
        common = (*runtime, f"runtime.threads={options.threads}", f"clip.precision={precision}", *overrides)
        photos = os.environ.get(PHOTOS)
        scenes = (f"shapes.train_scenes={images}", f"shapes.val_scenes={max(1, images // 4)}")
        if options.quick:
            yield Workspace(Path(name), load_config("shapes", overrides=[*scenes, *QUICK, *common]), "rendered, 64 px")
        elif photos:
            lists = Path(photos) / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
            chosen = (lists / "trainaug.txt").read_text().split()[:images] + (lists / "val.txt").read_text().split()[:2]
            data = (f"data.root={json.dumps(photos)}", f"data.images={json.dumps(chosen)}")
            yield Workspace(
                Path(name), load_config("voc_cached", overrides=[*LARGE, *data, *common]), f"{images} photographs"
            )
        else:
            large = ("shapes.image_size=512", *scenes, *LARGE)
            what = f"{images} scenes rendered at 512 px"
            yield Workspace(Path(name), load_config("shapes", overrides=[*large, *common]), what)


def scenes(count: int, size: int) -> list[NDArray[np.uint8]]:
    """Rendered images. Shapes: (size, size, 3), uint8."""
    return [render_scene(scene_rng(0, "val", index), size).image for index in range(count)]


# --- command line and report ------------------------------------------------------------------------------------------


def child(arguments: Sequence[str], threads: int = 0, imports: Sequence[str] = ()) -> tuple[float, int, str]:
    """Run the pipeline's command line in a process of its own.

    Args:
        arguments: of the command line.
        threads: CPU threads; 0 for what the pipeline chooses.
        imports: modules to import first, so that no stage's time holds an import.

    Returns:
        Seconds, peak memory of that process in bytes, and stdout.
    """
    environment = dict(os.environ)
    command = ["run_pipeline.py"]
    if imports:
        command = [
            "-c",
            f"import sys, {', '.join(imports)}; from split_matching.pipeline.cli import main; sys.exit(main())",
        ]
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command, *arguments], cwd=ROOT, env=environment, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"run_pipeline.py {' '.join(arguments)} ended with {process.returncode}")
        out.seek(0)
        return seconds, usage.ru_maxrss * 1024, out.read()


def main(document: str | None, run: Callable[[Options], Report]) -> None:
    """Parse the command line of a benchmark, run it, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each side (default: 7)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    given = parser.parse_args()
    options = Options(given.quick, 1 if given.quick else given.rounds, given.threads, given.device)
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    report = run(options)
    print(table(report, options))
    if given.json:
        name = Path(sys.argv[0]).stem
        question = (document or "").strip().splitlines()[0]
        value = to_json(name, question, report, options, time.perf_counter() - start)
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def table(report: Report, options: Options) -> str:
    """The report as text."""
    lines = [f"{report.setting}; {options.threads} threads; {describe_machine(options.device)}"]
    width = max(len(side.name) for side in report.sides)
    for side in report.sides:
        low, high = min(side.samples), max(side.samples)
        lines.append(f"{side.name:{width}}  {side.median:10.4g} {side.unit} ({low:.4g} to {high:.4g})")
    for check in report.checks:
        goal = "" if check.target is None else f"; {check.sense} {check.target:g}: {'met' if check.met else 'NOT met'}"
        lines.append(f"{check.what}: {check.value:.3g} {check.unit}{goal}")
    return "\n".join(lines)


def to_json(name: str, question: str, report: Report, options: Options, seconds: float) -> dict[str, Any]:
    """The report with machine, versions and command, as plain values."""
    return {
        "name": name,
        "question": question,
        "setting": report.setting,
        "machine": describe_machine(options.device),
        "device": options.device,
        "threads": options.threads,
        "quick": options.quick,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "sides": [{**dataclasses.asdict(side), "median": side.median} for side in report.sides],
        "checks": [{**dataclasses.asdict(check), "met": check.met} for check in report.checks],
        "facts": report.facts,
        "why": report.why,
    }
