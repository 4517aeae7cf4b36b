"""Races: several processes that make the same at once."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

from tests.faults.rig import Case, Rig, made


def race(rig: Rig, rng: random.Random, *more: str, command: str = "Report", ready: tuple[str, ...] = ()) -> str:
    """Start four processes at once on an empty cache."""
    root = rig.cache(*ready) if ready else rig.empty()
    processes = []
    for _ in range(4):
        processes.append(rig.start(command, root, *more))
        time.sleep(rng.choice((0, 0, 0.05, 0.3)))
    ended = [process.wait() for process in processes]
    problems = [f"ended with {end.code}: {end.last}" for end in ended if end.code]
    lines = [line.rpartition(" ")[0] for line in made(root)]
    if len(lines) != len(set(lines)):
        problems.append("something was made twice")
    problem = problems[0] if problems else rig.compare(root)
    rig.drop(root)
    return problem


def race_of_forces(rig: Rig, rng: random.Random, *more: str) -> str:
    """Start four processes at once that are all to make a fresh stage again: one does, or one after the other."""
    root = rig.cache()
    processes = [rig.start("ClusterPseudoMasks", root, "--force", *more) for _ in range(4)]
    ended = [process.wait() for process in processes]
    problems = [f"ended with {end.code}: {end.last}" for end in ended if end.code]
    again = [line for line in made(root) if line.startswith("stage")]
    if not again:
        problems.append("nothing was made again")
    problem = problems[0] if problems else compare_forced(rig, root)
    rig.drop(root)
    return problem


def compare_forced(rig: Rig, root: Path) -> str:
    """Compare but for manifests of pseudo masks, which record what they supersede."""
    for path in root.glob("shapes/pseudo_masks/*/manifest.json"):
        path.write_bytes(rig.files[path.relative_to(root)])
    return rig.compare(root)


def race_for_shards(rig: Rig, rng: random.Random, more: tuple[str, ...] = ()) -> str:
    """Start four processes at once where only sharded stages are missing."""
    return race(rig, rng, *more, command="EmbedRegions", ready=("features", "pseudo_masks", "regions"))


def cases(short: bool) -> dict[str, Case]:
    """Races for everything, for shards, and of --force."""
    if short:
        return {}
    return {
        "race of four": Case(race, 20),
        "race of four for shards, 2 workers each": Case(partial(race_for_shards, more=("--workers", "2")), 5),
        "race of four for shards": Case(race_for_shards, 20),
        "race of four --force": Case(race_of_forces, 20),
    }
