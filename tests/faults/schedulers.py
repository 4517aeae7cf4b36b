"""Several processes that share a luigid, and one that is lost."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.races import compare_forced, race, race_for_shards
from tests.faults.rig import Case, Rig, log_of, made


@contextlib.contextmanager
def luigid(rig: Rig, **settings: str) -> Iterator[str]:
    """Start a real scheduler on a free port of the loopback; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = rig.folder / f"luigid-{secrets.token_hex(4)}"
    folder.mkdir()
    lines = [
        "[core]",
        "autoload_range = false",
        "[scheduler]",
        *(f"{name} = {value}" for name, value in settings.items()),
    ]
    (folder / "luigi.cfg").write_text("\n".join(lines))
    code = "from luigi.cmdline import luigid; luigid()"
    command = [sys.executable, "-c", code, "--port", str(port), "--address", "127.0.0.1"]
    command += ["--state-path", str(folder / "state")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "LUIGI_CONFIG_PATH": str(folder / "luigi.cfg")},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def luigid_race(rig: Rig, rng: random.Random, shards: bool = False) -> str:
    """Four processes at once that share a scheduler."""
    with luigid(rig) as address:
        more = ("--scheduler", address)
        return race_for_shards(rig, rng, more) if shards else race(rig, rng, *more)


def luigid_dead_worker(rig: Rig, rng: random.Random) -> str | None:
    """Two processes share the shards of one run; one is killed halfway, and the other finishes.

    On a busy machine one may have made everything before the other got a shard: then nothing was shown.
    """
    root = rig.cache("features", "pseudo_masks", "regions")
    workers = rng.choice("12")
    with luigid(rig, worker_disconnect_delay="4", prune_on_get_work="true", retry_delay="1") as address:
        pair = [rig.start("EmbedRegions", root, "--scheduler", address, "--workers", workers) for _ in range(2)]
        wanted = rng.randint(3, 14)
        while not any(run.ended() for run in pair) and count_lines(log_of(root)) < wanted:
            time.sleep(0.01)
        victim = pair.pop(rng.randrange(2))
        victim.kill()
        victim.wait()
        ended = pair[0].wait()
    problem = f"the other ended with {ended.code}: {ended.last}" if ended.code else rig.compare(root)
    makers = {line.split()[2] for line in made(root) if line.startswith("shard")}
    rig.drop(root)
    return problem if problem or len(makers) > 1 else None


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, 0 if it is not there."""
    with contextlib.suppress(OSError):
        return len(path.read_text().splitlines())
    return 0


def luigid_force(rig: Rig, rng: random.Random) -> str:
    """Force a stage twice right after it was made, under a scheduler that ignores tasks done less than 10 s ago."""
    root = rig.cache("pseudo_masks")
    with luigid(rig, stable_done_cooldown_secs="10") as address:
        problem = rig.finish("ClusterPseudoMasks", root, "--scheduler", address)
        for _ in range(2):
            made(root)
            ended = rig.run("ClusterPseudoMasks", root, "--force", "--scheduler", address)
            again = [line.rpartition(" ")[0] for line in made(root)]
            if ended.code or len(again) != 7:
                problem = problem or f"ended with {ended.code}, made {again}: {ended.last}"
    problem = problem or compare_forced(rig, root)
    rig.drop(root)
    return problem


def luigid_strangers(rig: Rig, rng: random.Random) -> str:
    """Share one scheduler between a run in another cache, one with another config, and one with other shards."""
    root, other = rig.cache("pseudo_masks"), rig.cache("pseudo_masks")
    with luigid(rig) as address:
        shared = ("ClusterPseudoMasks", "--scheduler", address)
        runs = [rig.start(shared[0], where, *shared[1:]) for where in (root, other)]
        runs.append(rig.start(shared[0], root, *shared[1:], "--set", "pseudo_masks.merge=0.5"))
        ended = [run.wait() for run in runs]
    problems = [f"ended with {end.code}: {end.last}" for end in ended if end.code]
    found = [path for path in root.glob("shapes/pseudo_masks/*") if len(path.name) == 16]
    if len(found) != 2:
        problems.append(f"two configs made {len(found)} artifacts")
    for path in found:
        if not (rig.base / path.relative_to(root)).exists():
            shutil.rmtree(path)
    problem = next(iter(problems), "") or rig.compare(root) or rig.compare(other)
    for cache in (root, other):
        rig.drop(cache)
    return problem


def luigid_lost(rig: Rig, rng: random.Random) -> str:
    """Kill the scheduler in the middle: one line, and the next run goes on without it."""
    from split_matching.pipeline.run import luigid as sharing

    def impatient() -> None:
        sharing.RPC = {**sharing.RPC, "rpc-retry-attempts": "2", "rpc-retry-wait": "1"}

    root = rig.cache("features", "pseudo_masks", "regions")
    with luigid(rig) as address:
        run = rig.start("EmbedRegions", root, "--scheduler", address, before=impatient)
        while not count_lines(log_of(root)) and not run.ended():
            time.sleep(0.01)
    ended = run.wait()
    problem = ""
    if ended.code != 1 or "does not answer any more" not in ended.last or "Traceback" in ended.err:
        problem = f"ended with {ended.code}: {ended.last}"
    nobody = rig.run("EmbedRegions", root, "--scheduler", address)
    if nobody.code != 2 or "no luigi scheduler answers at" not in nobody.last or len(nobody.err.splitlines()) != 1:
        problem = problem or f"without a scheduler it ended with {nobody.code}: {nobody.last}"
    problem = problem or rig.finish("EmbedRegions", root)
    rig.drop(root)
    return problem


def cases(short: bool) -> dict[str, Case]:
    """Each starts a luigid of its own."""
    if short:
        return {}
    return {
        "luigid: race of four": Case(luigid_race, 20),
        "luigid: race of four for shards": Case(partial(luigid_race, shards=True), 20),
        "luigid: one of two is killed": Case(luigid_dead_worker, 20),
        "luigid: --force within 10 s": Case(luigid_force, 5),
        "luigid: other caches and configs": Case(luigid_strangers, 5),
        "luigid: scheduler is lost": Case(luigid_lost, 5),
    }
