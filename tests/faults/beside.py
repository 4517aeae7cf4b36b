"""A second process beside a running one: with other shards, with other code, and one that removes."""

from __future__ import annotations

import json
import random
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.rig import STAGES, Case, Ended, Rig, Running, made

SHARDED = ("features", "pseudo_masks", "regions")


def wait_for_build(root: Path, run: Running, stage: str) -> bool:
    """Wait until a run has begun a build; returns whether it has, and has not ended."""
    while not run.ended():
        if list(root.glob(f"shapes/{stage}/*.partial/build.json")):
            return True
        time.sleep(0.002)
    return False


def other_shard_size(rig: Rig, rng: random.Random) -> str | None:
    """Start a run with another `runtime.shard_size`: it works on the shards that are there.

    Where it is the first to begin a stage its shards count, and only the values are the same.
    """
    root = rig.cache(*SHARDED)
    first = rig.start("EmbedRegions", root)
    disturbed = wait_for_build(root, first, rng.choice(SHARDED))
    time.sleep(rng.uniform(0, 0.2))
    second = rig.run("EmbedRegions", root, "--set", f"runtime.shard_size={rng.choice((2, 3, 100))}")
    problem = complain(first.wait(), second)
    lines = [line.rpartition(" ")[0] for line in made(root)]
    if len(lines) != len(set(lines)):
        problem = problem or "something was made twice"
    for stage in SHARDED:
        [folder], [base] = root.glob(f"shapes/{stage}/*"), rig.base.glob(f"shapes/{stage}/*")
        values = [json.loads((path / "manifest.json").read_text())["content"] for path in (folder, base)]
        if values[0] == values[1]:
            shutil.rmtree(folder)
            shutil.copytree(base, folder)
    problem = problem or rig.compare(root)
    rig.drop(root)
    return problem if disturbed or problem else None


def complain(*ends: Ended) -> str:
    """Return how the first run that failed ended; "" if none did."""
    return next((f"ended with {end.code}: {end.last}" for end in ends if end.code), "")


def other_code(rig: Rig, rng: random.Random) -> str | None:
    """Start a run with other code: it waits, the first one loses no shard, and each result is called what it is."""
    stage = rng.choice(SHARDED)
    root = rig.cache(*SHARDED)
    first = rig.start("EmbedRegions", root)
    disturbed = wait_for_build(root, first, stage)
    time.sleep(rng.uniform(0, 0.1))
    second = rig.run("EmbedRegions", root, before=partial(pretend_edit, stage))
    ended = first.wait()
    problem = complain(second)
    if ended.code and ("Traceback" in ended.err or not ended.last.startswith("error: ")):
        problem = problem or f"the first ended with {ended.code}: {ended.last}"
    own = [line for line in made(root) if line.startswith("shard") and line.endswith(f" {first.pid}")]
    if len(own) != len(set(own)):
        problem = problem or "the first made a shard twice"
    codes = [json.loads(path.read_text())["code"] for path in root.glob(f"shapes/{stage}/*/manifest.json")]
    if "edited" not in codes[0].values():
        problem = problem or "the result of the edited code is not called so"
    problem = problem or rig.finish("EmbedRegions", root)
    rig.drop(root)
    return problem if disturbed or problem else None


def pretend_edit(stage: str) -> None:
    """Give the module of a stage another fingerprint in this process."""
    from split_matching.cache import code

    real, ending = code.module_closure, f".{stage}"

    def edited(module: str, **rest: Any) -> dict[str, str]:
        found = real(module, **rest)
        own = next(file for file in found if file.endswith(f"/{module.rpartition('.')[2]}.py"))
        return {**found, own: "edited"} if module.endswith(ending) else found

    code.module_closure = edited
    code.forget_code()


def collect_beside(rig: Rig, rng: random.Random, stage: str) -> str | None:
    """Run `gc` again and again while a stage is made, which then has all that it reads."""
    order = list(STAGES)
    root = rig.cache(*order[order.index(stage) :])
    run = rig.start(STAGES[stage], root)
    disturbed = wait_for_build(root, run, stage)
    problem = ""
    while not run.ended():
        problem = problem or complain(rig.run("gc", root, "--yes", "--keep", "0"))
        time.sleep(rng.uniform(0, 0.1))
    problem = problem or complain(run.wait()) or rig.finish("Report", root)
    rig.drop(root)
    return problem if disturbed or problem else None


def cases(short: bool) -> dict[str, Case]:
    """One run beside another."""
    found = {"other shard size beside a running build": Case(other_shard_size, 1 if short else 20)}
    if not short:
        found["other code beside a running build"] = Case(other_code, 20)
        for stage in ("features", "train"):
            found[f"gc beside {STAGES[stage]}"] = Case(partial(collect_beside, stage=stage), 20)
    return found
