"""Every benchmark imports, the cheap ones run in tiny sizes, the page shows the results. No time is judged."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cold, gpu, render
from benchmarks.bench import NAMES, NEEDS
from benchmarks.measure import Check, Options, Report, Side, paired, ratio, table, to_json

QUICK = Options(quick=True, rounds=1)
CHEAP = (
    *("machine", "forward", "clustering", "regions", "matcher", "step_parts", "reads", "confusion", "evaluation"),
    "scheduler",
)


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_imports_and_says_how_to_run_it(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert f"python -m benchmarks.{name}" in module.__doc__
    assert f"| `{name}` |" in render.README.read_text(encoding="utf-8")


def test_no_benchmark_is_forgotten() -> None:
    shared = {
        "__init__",
        "measure",
        "bench",
        "render",
        "pseudo_masks",
        "modality_gap",
        "gpu",
    }  # pseudo_masks and modality_gap ask about quality, gpu has a target of its own
    assert {path.stem for path in Path(render.__file__).parent.glob("*.py")} - shared == set(NAMES)


@pytest.mark.parametrize("name", CHEAP)
def test_a_cheap_benchmark_runs(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    report = importlib.import_module(f"benchmarks.{name}").run(QUICK)
    assert report.sides and report.checks
    assert all(side.median > 0 for side in report.sides)
    assert all(check.met is None for check in report.checks)  # a quick run judges nothing
    assert report.sides[0].name in table(report, QUICK)
    json.dumps(to_json(name, "why?", report, QUICK, 0.0), allow_nan=False)


def test_a_part_of_the_gpu_script_that_fails_or_comes_too_late_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def good(options: Options) -> Report:
        return Report("two images", [Side("x", "ms", (1.0,))], [Check("y", 2.0, 3.0)], {"z": 4.0})

    def bad(options: Options) -> Report:
        raise RuntimeError("no such kernel")

    def broken(options: Options) -> Report:
        raise SystemExit("ExtractFeatures ended with 1")

    clock = iter([0.0, 1.0, 2.0, 3.0, gpu.SECONDS + 3.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(gpu, "PARTS", {"bad": bad, "broken": broken, "good": good, "late": good})
    report = gpu.run(QUICK)
    assert [side.name for side in report.sides] == ["good: x"] and report.facts == {"good_z": 4.0}
    assert [(check.what, check.met) for check in report.checks] == [("good: y", True)]
    lines = report.setting.splitlines()
    assert lines[0] == "bad: failed (RuntimeError: no such kernel)"
    assert lines[1] == "broken: failed (SystemExit: ExtractFeatures ended with 1)"
    assert lines[2:] == ["good: two images", "late: not run, there was no time left"]


def test_the_gpu_script_measures_what_it_has_of_its_own() -> None:
    """In tiny sizes on the CPU; its other parts are benchmarks that are tested above or run by `make bench`."""
    for part in (gpu.forward_pass, gpu.compiled_pass):
        report = part(QUICK)
        assert all(side.median > 0 for side in report.sides) and report.checks[0].met is None


def test_the_demo_is_taken_apart_by_stages(tmp_path: Path) -> None:
    for stage, seconds in (("Evaluate", 10.0), ("TrainDecoder", 60.0)):
        folder = tmp_path / "shapes" / stage.lower() / "0123"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"stage": stage, "seconds": seconds}))
    took = {"whole": 80.0, **cold.stage_seconds(tmp_path)}
    assert list(took.items()) == [("whole", 80.0), ("TrainDecoder", 60.0), ("Evaluate", 10.0)]
    sides = [{"name": name, "median": value} for name, value in took.items()]
    assert render.demo({"cold": {"sides": sides}}).splitlines()[-2:] == [
        "| TrainDecoder | 60.0 | 75 % |",
        "| Evaluate | 10.0 | 12 % |",
    ]
    assert render.demo({}) == ""


def test_sides_are_timed_in_turn() -> None:
    order: list[str] = []
    sides = paired({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [len(side.samples) for side in sides] == [2, 2]


def test_ratios_are_of_the_same_round() -> None:
    sides = [Side("a", "ms", (10.0, 100.0, 1.0)), Side("b", "ms", (5.0, 50.0, 1.0))]
    assert ratio(sides, "a", "b") == 2.0


def test_a_target_is_a_bound_on_one_side() -> None:
    assert Check("x", 1.1, 1.1).met and not Check("x", 1.2, 1.1).met
    assert Check("x", 4.0, 4.0, "at least").met and not Check("x", 3.9, 4.0, "at least").met


def write(folder: Path, name: str, report: Report, **options: Any) -> None:
    value = to_json(name, "why?", report, dataclasses.replace(Options(), **options), 1.0)
    (folder / f"{name}.json").write_text(json.dumps(value))


def test_the_page_is_what_the_results_say() -> None:
    """So that no number in it is typed by hand."""
    text = render.README.read_text(encoding="utf-8")
    assert render.updated(text, render.load(render.RESULTS)) == text


def test_floors_and_plan_follow_from_the_results(tmp_path: Path) -> None:
    side = [Side("a", "ms", (1.0,))]
    rates = {"matrix_gflops": 100.0, "copy_gb": 10.0, "disk_gb": 1.0}
    write(tmp_path, "machine", Report("", side, [], rates), threads=2)
    write(tmp_path, "forward", Report("", side, [Check("share", 55.0, 60.0, "at least", "%")], {}))
    extraction = {"ms_per_image": 2500.0, "bytes_per_image": 5e6, "flop_per_image": 2e11}
    write(tmp_path, "extraction", Report("", side, [], extraction))
    stages = {"features": (2000.0, 5e6), "pseudo_masks": (10.0, 500.0), "regions": (90.0, 1000.0)}
    stages["fused"] = (2050.0, 1500.0)
    chain = {f"{name}_ms_per_image": ms for name, (ms, _) in stages.items()}
    chain |= {f"{name}_bytes_per_image": size for name, (_, size) in stages.items()}
    write(tmp_path, "chain", Report("", side, [], chain))
    costs = {"add_ms_1000": 0.01, "done_ms_1000": 0.01, "ask_ms_1000": 1.0}
    write(tmp_path, "scheduler", Report("", side, [], costs))
    write(tmp_path, "reads", Report("", side, [], {}), quick=True)  # measured nothing
    page = render.page(render.load(tmp_path))
    assert "| ExtractFeatures | 200 | 5 | 2,000 | 2,500 | 1.25 |" in page  # 200 GFLOP at 100 GFLOP/s are 2 s
    assert "55 % | at least 60 % | **not met**" in page
    assert "`reads`" not in page
    assert (
        "| `chain` on a GPU: throughput of all three over extraction alone |  | at least 75 % | **not measured** |"
        in page
    )
    row = next(line for line in page.splitlines() if line.startswith("| 10 M |"))
    # 10 M x 2 s = 5,556 h; 10 M x 5 MB = 50 TB; 3 stages of 78,125 shards, three calls each
    assert [cell.strip() for cell in row.split("|")[2:11]] == [
        "5,556",
        "27.8",
        "250",
        "50 TB",
        "15 GB",
        "5,694",
        "25 GB",
        "234,375",
        "703,125",
    ]
    # 1 % of 128 x 10 ms is 12.8 ms = 0.02 ms + 1 us x n / 2
    assert "25,560 shards on" in page


def test_the_plan_for_many_machines_follows_from_the_results() -> None:
    chain = {"fused_ms_per_image": 1800.0}
    slurm = {"most_tasks": 1000.0, "submit_seconds_10": 0.1, "submit_seconds_1000": 2.0, "tasks_per_second": 4.0}
    sharing = {"push_requests": 3.5, "pull_requests": 2.0, "manifest_bytes": 500.0}
    text = render.many_machines({"chain": {"facts": chain}, "slurm": {"facts": slurm}, "sharing": {"facts": sharing}})
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    rows = {row[1]: row[2:-1] for row in cells}
    # 10 M in shards of 128: 78,125; a shard 230.4 s; 5,000 h on 1,000 machines; two stages of objects
    assert rows["10 M"] == ["128", "78,125", "0.064", "1,000", "5", "156,250", "546,875", "312,500", "39.1 MB"]
    # at most 100,000 shards, so 10,000 images each: 5 h
    assert rows["1 B"] == ["10,000", "100,000", "5", "1,000", "500", "200,000", "700,000", "400,000", "50 MB"]
    assert "to submit so many took 2 s" in text and "4 empty tasks a second" in text
    assert render.many_machines({"chain": {"facts": chain}}) == ""


def test_targets_of_a_gpu_are_those_of_the_benchmarks(tmp_path: Path) -> None:
    """A row says "not measured" until there is a result; sense and number are then the benchmark's own."""
    side = [Side("a", "ms", (1.0,))]
    for name, (what, goal) in render.GPU_TARGETS.items():
        source = Path(importlib.import_module(f"benchmarks.{name}").__file__ or "").read_text(encoding="utf-8")
        assert f'"{what}"' in source and goal.split()[2].rstrip("0") in source
        write(tmp_path, f"{name}-cuda", Report("", side, [Check(what, 1.0, 1.0)]))
    assert "not measured" in render.comparisons({})
    assert "not measured" not in render.comparisons(render.load(tmp_path))
