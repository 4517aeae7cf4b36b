"""Kills: of everything at any moment, just before any change of the cache, and of one worker."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.faults.rig import STAGES, Case, Rig, crash_at_change


def kill_in_stage(rig: Rig, rng: random.Random, stage: str, command: str, workers: str = "1") -> str | None:
    """Kill everything while a stage is made: at a random moment, or just before a random change of the cache."""
    rig.measure(stage, command)
    root = rig.cache(stage)
    if rng.random() < 0.5:
        number = rng.randint(1, rig.changes[stage])
        process = rig.start(command, root, "--workers", workers, before=partial(crash_at_change, root, number))
    else:
        process = rig.start(command, root, "--workers", workers)
        time.sleep(rng.uniform(0, rig.seconds[stage]))
        process.kill()
    disturbed = process.wait().code == -signal.SIGKILL
    problem = rig.finish(command, root)
    rig.drop(root)
    return problem if disturbed or problem else None


def of_pretraining(rig: Rig, rng: random.Random, case: Callable[..., str | None]) -> str | None:
    """Show a case on PretrainClip, whose weights are in the repository, so that only who asks for it runs it."""
    return case(rig.pretraining, rng, stage="pretrain", command="PretrainClip")


def kill_thrice(rig: Rig, rng: random.Random) -> str | None:
    """Kill a run of all stages from one on, and the run after it, and the one after that."""
    stages = list(STAGES)
    root = rig.cache(*stages[rng.randrange(len(stages)) :])
    for _ in range(3):
        process = rig.start("Report", root, "--workers", "2")
        time.sleep(rng.uniform(0.2, 2))
        process.kill()
        process.wait()
    problem = rig.finish("Report", root)
    rig.drop(root)
    return problem


def kill_worker(rig: Rig, rng: random.Random) -> str | None:
    """Kill one forked worker of two; the run says so in one line."""
    stage, command = rng.choice([stage for stage in rig.stages if stage[0] not in ("shapes", "dataset")])
    root = rig.cache(stage)
    process = rig.start(command, root, "--workers", "2")
    moment = time.monotonic() + rng.uniform(0, 0.5)
    killed = False
    while not killed and not process.ended():
        workers = process.workers()
        if workers and time.monotonic() > moment:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed = True
        time.sleep(0.002)
    ended = process.wait()
    problem = ""
    if ended.code not in (0, 1) or "Traceback" in ended.err or (ended.code and "worker process died" not in ended.last):
        problem = f"ended with {ended.code}: {ended.last}"
    problem = problem or rig.finish(command, root)
    rig.drop(root)
    return problem if killed or problem else None


def cases(short: bool) -> dict[str, Case]:
    """Kills in every stage, with one worker and with two."""
    many = 1 if short else 20
    some = {stage: STAGES[stage] for stage in (("shapes", "train") if short else STAGES)}
    found = {
        f"kill in {command}": Case(partial(kill_in_stage, stage=stage, command=command), 1 if short else 40)
        for stage, command in some.items()
    }
    if not short:  # a cache of its own, and so an undisturbed run of its own: 15 s
        found["kill in PretrainClip"] = Case(partial(of_pretraining, case=kill_in_stage), many)
    for stage in ("features",) if short else ("features", "train"):
        run = partial(kill_in_stage, stage=stage, command=STAGES[stage], workers="2")
        found[f"kill in {STAGES[stage]}, 2 workers"] = Case(run, many)
    found["kill a run of many stages three times"] = Case(kill_thrice, many)
    found["kill one of 2 workers"] = Case(kill_worker, many)
    return found
