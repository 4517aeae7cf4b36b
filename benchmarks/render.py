"""Writes the tables of benchmarks/README.md from the JSON results; no number there is typed by hand.

    python -m benchmarks.render [--check]

`--check` writes nothing and ends with 1 if the page is not what the results say. Floors are operations over the
machine's measured matrix rate, or bytes over its measured bandwidth, whichever takes longer, since both can overlap.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- begin: rendered from results/ -->", "<!-- end -->"
PLANNED = {"118 k (COCO-Stuff)": 118_287, "10 M": 10_000_000, "1 B": 1_000_000_000}
SHARD = 128  # images a shard, the default of runtime.shard_size
STAGES = ("features", "pseudo_masks", "regions")
CALLS = 3  # a shard: registered, handed out, reported done
MOST_SHARDS = 100_000  # of a stage: its manifest is read by every command
BUDGET = 0.01  # of the work that the scheduler may cost
# what a GPU is to reach; shown as not measured until there are results of one
GPU_TARGETS = {
    "chain": ("throughput of all three over extraction alone", "at least 75 %"),
    "extraction": ("whole stage over bare forward", "at most 1.1 x"),
    "forward": ("ours over the matrix product", "at least 60 %"),
    "training": ("cached faster than online by", "at least 3 x"),
}

Results = Mapping[str, Mapping[str, Any]]


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Results by name; "-cuda" at the end for those of a GPU. Those of quick runs measure nothing and are left out."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return {name: value for name, value in found.items() if not value["quick"]}


def page(results: Results) -> str:
    """All tables, as Markdown."""
    if not results:
        return "Nothing has been measured yet: `make bench`."
    parts = [machines(results), comparisons(results), demo(results)]
    parts += [floors(results, suffix) for suffix in ("", "-cuda")]
    parts += [plan(results, suffix) for suffix in ("", "-cuda")]
    parts.append(many_machines(results))
    parts.append(scheduler(results))
    return "\n\n".join(part for part in parts if part)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table, its first column to the left, the others to the right."""
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, aligned, *rows))


def machines(results: Results) -> str:
    """On what, with what and when it was measured."""
    groups: dict[tuple[str, int, str, str], list[str]] = {}
    for name, value in results.items():
        made = (value["machine"], value["threads"], value["torch"], value["date"])
        groups.setdefault(made, []).append(f"`{name}`")
    lines = [
        f"- {machine}, {threads} threads, torch {version}, {date}: {', '.join(names)}"
        for (machine, threads, version, date), names in groups.items()
    ]
    return "\n".join(["**Measured on**", "", *lines])


def comparisons(results: Results) -> str:
    """Every check of every benchmark against its target."""
    rows = []
    for name, value in results.items():
        medians = "; ".join(f"{side['name']} {number(side['median'])} {side['unit']}" for side in value["sides"][:4])
        for check in value["checks"]:
            if check["target"] is None:
                goal, met = "", ""
            else:
                goal = f"{check['sense']} {check['target']:g} {check['unit']}"
                met = "met" if check["met"] else f"**not met**{': ' + value['why'] if value['why'] else ''}"
            rows.append((f"`{name}`: {check['what']}", f"{number(check['value'])} {check['unit']}", goal, met, medians))
            medians = ""
    for name, (what, goal) in GPU_TARGETS.items():
        if f"{name}-cuda" not in results:
            rows.append((f"`{name}` on a GPU: {what}", "", goal, "**not measured**", ""))
    head = ("what", "measured", "target", "", "medians of the sides")
    settings = [f"- `{name}`: {value['question']} {value['setting']}." for name, value in results.items()]
    return "\n".join(["**Against targets**", "", markdown(head, rows), "", *settings])


def demo(results: Results) -> str:
    """Where the seconds of the demo went, stage by stage."""
    if len(sides := results.get("cold", {}).get("sides", [])) < 2:
        return ""
    whole = sides[0]["median"]
    rows = [(s["name"], f"{s['median']:.1f}", f"{100 * s['median'] / whole:.0f} %") for s in sides]
    return f"**Where the seconds of the demo went**\n\n{markdown(('what', 'seconds', 'share'), rows)}"


def floors(results: Results, suffix: str) -> str:
    """For each stage the least time that the machine's rates allow, and what it takes."""
    names = ("machine", "forward", "extraction", "clustering", "regions", "training", "reads")
    facts = {name: results[name + suffix]["facts"] for name in names if name + suffix in results}
    if "machine" not in facts:
        return ""
    rates = facts["machine"]
    threads = results["machine" + suffix]["threads"]
    rows = []
    if "extraction" in facts:
        found = facts["extraction"]
        row = ("ExtractFeatures", found["flop_per_image"], found["bytes_per_image"], found["ms_per_image"])
        rows.append(floor_row(*row, rates["matrix_gflops"], rates["disk_gb"]))
    if "clustering" in facts:  # one thread a worker
        row = ("ClusterPseudoMasks, one thread", *(facts["clustering"][key] for key in COSTS))
        rows.append(floor_row(*row, rates["matrix_gflops"] / threads, rates["copy_gb"]))
    if "regions" in facts:
        row = ("EmbedRegions, attention", facts["regions"]["flop_per_image"], 0.0, facts["regions"]["ms_per_image"])
        rows.append(floor_row(*row, rates["matrix_gflops"], rates["copy_gb"]))
    if "training" in facts:
        found = facts["training"]
        row = (
            "TrainDecoder, an image",
            found["flop_per_image"],
            found["bytes_per_image"],
            found["cached_ms_per_image"],
        )
        rows.append(floor_row(*row, rates["matrix_gflops"], rates["copy_gb"]))
    if "reads" in facts:
        size = facts["reads"]["bytes_per_image"]
        row = ("a read from the cache", 0.0, 2 * size, size / facts["reads"]["gb_per_second"] / 1e6)
        rows.append(floor_row(*row, rates["matrix_gflops"], rates["copy_gb"]))
    head = ("an image of", "GFLOP", "MB moved", "floor, ms", "measured, ms", "measured over floor")
    title = f"**Floors** ({'GPU' if suffix else 'CPU'}: {number(rates['matrix_gflops'])} GFLOP/s, "
    title += f"{number(rates['copy_gb'])} GB/s in memory, {number(rates['disk_gb'])} GB/s to disk)"
    return f"{title}\n\n{markdown(head, rows)}" if rows else ""


COSTS = ("flop_per_image", "bytes_per_image", "ms_per_image")


def floor_row(name: str, flop: float, moved: float, took: float, gflops: float, gigabytes: float) -> tuple[str, ...]:
    """One row: the longer of computing and moving is the floor."""
    floor = 1000 * max(flop / gflops, moved / gigabytes) / 1e9
    return (name, number(flop / 1e9), number(moved / 1e6), number(floor), number(took), f"{took / floor:.2f}")


def plan_row(name: str, images: int, facts: Mapping[str, float], costs: tuple[float, float]) -> tuple[str, ...]:
    """One data set of the plan, from the costs of an image and those of the scheduler, see `scheduler_costs`."""
    add, ask = costs
    hours = [images * facts[f"{stage}_ms_per_image"] / 3.6e6 for stage in STAGES]
    sizes = [images * facts[f"{stage}_bytes_per_image"] for stage in STAGES]
    shards = math.ceil(images / SHARD) * len(STAGES)
    busy = (shards * add + ask * shards**2 / len(STAGES) / 2) / 3.6e6  # one stage's shards are open at a time
    room = BUDGET * sum(hours) / len(STAGES) * 3.6e6
    most = (-add + math.sqrt(add**2 + 2 * ask * room)) / ask
    return (
        name,
        *(number(value) for value in hours),
        size(sizes[0]),
        size(sizes[1] + sizes[2]),
        number(images * facts["fused_ms_per_image"] / 3.6e6),
        size(images * (facts["fused_bytes_per_image"] + facts["regions_bytes_per_image"])),
        f"{shards:,}",
        f"{CALLS * shards:,}",
        number(busy),
        f"{max(SHARD, math.ceil(images / most)):,}",
    )


def plan(results: Results, suffix: str) -> str:
    """What data sets of the internet's size would cost on machines like this one."""
    if "chain" + suffix not in results or "scheduler" not in results:
        return ""
    facts, costs = results["chain" + suffix]["facts"], scheduler_costs(results)
    rows = [plan_row(name, images, facts, costs) for name, images in PLANNED.items()]
    head: tuple[str, ...] = (
        "images",
        "features, h",
        "pseudo masks, h",
        "regions, h",
        "features",
        "masks and regions",
        "fused, h",
        "fused, on disk",
        "shards",
    )
    head += ("scheduler calls", "scheduler, h", "images a shard for 1 %")
    text = (
        f"**Plan for internet scale** ({'GPU' if suffix else 'CPU'}; hours of one such machine, {SHARD} images a shard)"
    )
    note = (
        "The last column is the shard size at which one scheduler costs at most 1 % of the work of one machine. Dense "
        "features are by far the most bytes. Where they do not fit, `features.persist=false` makes pseudo masks and "
        "regions in one go and keeps nothing else (the columns *fused*), and training computes what it reads "
        "(`train.features=online`)."
    )
    return f"{text}\n\n{markdown(head, rows)}\n\n{note}"


def many_machines(results: Results) -> str:
    """What a job array of Slurm and a shared cache on S3 make of the plan, all stages fused."""
    if not {"chain", "slurm", "sharing"} <= set(results):
        return ""
    chain, slurm, shared = (results[name]["facts"] for name in ("chain", "slurm", "sharing"))
    tasks = int(slurm["most_tasks"])
    submission = max(value for name, value in slurm.items() if name.startswith("submit_seconds_"))
    rows = []
    for name, images in PLANNED.items():
        images_a_shard = max(SHARD, math.ceil(images / MOST_SHARDS))
        shards = math.ceil(images / images_a_shard)
        objects = 2 * shards  # pseudo masks with their regions, and the regions taken over
        rows.append(
            (
                name,
                f"{images_a_shard:,}",
                f"{shards:,}",
                number(images_a_shard * chain["fused_ms_per_image"] / 3.6e6),
                f"{min(tasks, shards):,}",
                number(images * chain["fused_ms_per_image"] / 3.6e6 / min(tasks, shards)),
                f"{objects:,}",
                f"{round(objects * shared['push_requests']):,}",
                f"{round(objects * shared['pull_requests']):,}",
                size(objects * shared["manifest_bytes"] / 2),
            )
        )
    head: tuple[str, ...] = ("images", "images a shard", "shards a stage", "a shard, h", "tasks in one array", "all, h")
    head += ("objects on S3", "requests to push", "requests to pull", "manifest")
    note = (
        f"`--engine slurm --workers {tasks}`, one task a machine like this one. Slurm's default limit is {tasks:,} "
        f"tasks in an array; to submit so many took {number(submission)} s here, and one node started and ended "
        f"{number(slurm['tasks_per_second'])} empty tasks a second: neither is a limit where a task works for hours. A "
        f"manifest names every shard, so there are at most {MOST_SHARDS:,} of them a stage. A killed task loses one. "
        "Requests are those of shards of 84 MB."
    )
    return f"**Plan for many machines** (job arrays, a shared cache)\n\n{markdown(head, rows)}\n\n{note}"


def scheduler_costs(results: Results) -> tuple[float, float]:
    """Milliseconds a shard that do not depend on their number, and those a request and open shard."""
    facts = results["scheduler"]["facts"]
    most = max(int(name.removeprefix("ask_ms_")) for name in facts if name.startswith("ask_ms_"))
    return facts[f"add_ms_{most}"] + facts[f"done_ms_{most}"], facts[f"ask_ms_{most}"] / most


def scheduler(results: Results) -> str:
    """From which number of shards on luigi's scheduler costs more than it may."""
    if "scheduler" not in results or "chain" not in results:
        return ""
    add, ask = scheduler_costs(results)
    facts = results["chain"]["facts"]
    work = SHARD * min(facts[f"{stage}_ms_per_image"] for stage in STAGES)
    slow, useless = (2 * (share * work - add) / ask for share in (BUDGET, 1.0))
    return (
        "**How many shards the scheduler can handle**: every request for work looks at all open shards, "
        f"{1000 * ask:.3g} us each here. For the cheapest stage, {number(work / 1000)} s a shard of {SHARD} images, it "
        f"costs {BUDGET:.0%} of the work of one machine from {max(0, round(slow)):,} shards on, and as much as the "
        f"work at {round(useless):,}."
    )


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def size(value: float) -> str:
    """Bytes as people say them."""
    unit = min(5, int(math.log(max(value, 1), 1000)))
    return f"{value / 1000**unit:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[unit]}"


def updated(text: str, results: Results) -> str:
    """The page with its tables rendered again."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{page(results)}\n{END}{after}"


def update(readme: Path, folder: Path) -> None:
    """Rewrite the tables of the page."""
    readme.write_text(updated(readme.read_text(encoding="utf-8"), load(folder)), encoding="utf-8")


def main() -> int:
    """Render, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    if parser.parse_args().check:
        text = README.read_text(encoding="utf-8")
        return int(updated(text, load(RESULTS)) != text)
    update(README, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
