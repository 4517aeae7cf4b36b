"""Clocks that jump, and caches that are moved."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from functools import partial

from tests.faults.rig import Case, Rig, made


def clock(rig: Rig, rng: random.Random) -> str:
    """Let the clock jump back and forth in a run, kill it, and go on years before; then all is fresh."""
    root = rig.cache("regions", "train")
    process = rig.start("TrainDecoder", root, before=partial(_bend_clock, rng.random(), 1e5))
    time.sleep(rng.uniform(0.2, 2))
    process.kill()
    process.wait()
    for path in root.rglob("*"):
        os.utime(path, (rng.choice((0, 4e9)),) * 2)
    ended = rig.run("TrainDecoder", root, before=partial(_bend_clock, rng.random(), 1e9))
    problem = f"ended with {ended.code}: {ended.last}" if ended.code else ""
    for path in root.rglob("*"):
        os.utime(path, (rng.choice((0, 4e9)),) * 2)
    made(root)
    problem = problem or rig.finish("Report", root)
    if again := made(root):
        problem = problem or f"made again: {again}"
    rig.drop(root)
    return problem


def _bend_clock(seed: float, width: float) -> None:
    """Make every look at the clock of this process jump by up to `width` seconds, mostly back."""
    steps, real = random.Random(seed), time.time
    time.time = lambda: real() + steps.uniform(-width, width / 10)
    time.time_ns = lambda: int(time.time() * 1e9)


def moved(rig: Rig, rng: random.Random) -> str:
    """Move, copy or link the cache to another place: all is fresh."""
    root = rig.cache()
    place = rig.folder / rng.choice(("a place", "mömö/cache", "x" * 100, "-dash"))
    place.parent.mkdir(exist_ok=True)
    way = rng.choice(("moved", "copied", "linked"))
    if way == "moved":
        root.rename(place)
    elif way == "copied":
        shutil.copytree(root, place, copy_function=shutil.copyfile)
    else:
        place.symlink_to(root)
    problem = rig.finish("Report", place)
    if again := made(place):
        problem = problem or f"{way}, made again: {again}"
    with contextlib.suppress(OSError):
        place.unlink()
    rig.drop(place)
    rig.drop(root)
    return f"{way} to {place.name}: {problem}" if problem else ""


def cases(short: bool) -> dict[str, Case]:
    """Both, a few times."""
    many = 1 if short else 20
    return {
        "clock back and forth": Case(clock, many),
        "cache moved, copied or linked": Case(moved, 1 if short else 100),
    }
