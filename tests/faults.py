"""Fault injection: the real pipeline on a tiny data set is killed, starved, raced and damaged.

It must then come out as if nothing had happened: every file of every artifact byte for byte, manifests and the report
included.

    python -m tests.faults            the long form: 20 or more repetitions of most cases, half an hour or more
    python -m tests.faults --short    what tests/pipeline/test_faults.py runs

Times and the host's name are pinned while this runs, for they are all that may differ. Libraries are imported once, and
every run is a fork of this process in a session of its own, so that it takes no second and can be killed as a whole.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import itertools
import json
import os
import random
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIMIT = 300.0  # seconds after which a run counts as hung
SETTINGS = (
    *("shapes.train_scenes=6", "shapes.val_scenes=3", "shapes.image_size=64", "features.size=64"),
    *("decoder.dim=32", "decoder.ffn=32", "decoder.heads=2", "decoder.layers=1", "evaluate.gamma_sweep=[0.1]"),
    *("train.steps=12", "train.batch=2", "train.log_every=1", "train.checkpoint_every=3", "report.examples=2"),
    *("runtime.shard_size=1", "runtime.threads=1", "pretrain.steps=5", "pretrain.batch=2", "pretrain.warmup=1"),
)
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "fcntl.lockf", "open")
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 16384, 1 << 18


class LeftOutError(Exception):
    """This machine cannot show this case."""


@dataclass(frozen=True)
class Ended:
    """How a run ended; `code` is negative for a signal."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


class Running:
    """A run in a process group of its own."""

    def __init__(self, pid: int, out: int, err: int) -> None:
        self.pid = pid
        self.pipes = (out, err)

    def kill(self) -> None:
        """End the whole group as a power failure would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Return the processes that it has forked."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def ended(self) -> bool:
        """Whether nothing more will come of it; `wait` is still to be called."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> Ended:
        """Wait for the end; a hung run is killed and ends with -9."""
        deadline = time.monotonic() + LIMIT
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.005)
        self.kill()  # workers that outlived it
        texts = []
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
            with open(pipe, "rb") as stream:  # noqa: PTH123
                texts.append((stream.read() or b"").decode(errors="replace"))
        return Ended(os.waitstatus_to_exitcode(status), *texts)


class Rig:
    """A folder with the result of an undisturbed run, and the means to disturb others.

    Args:
        folder: where all its caches go; empty, or not there.
        last: the stage that the undisturbed run makes, with all that it needs.
    """

    def __init__(self, folder: Path, last: str = "Report") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.settings = SETTINGS
        self.base = folder / "base"
        self.seconds: dict[str, float] = {}
        self.changes: dict[str, int] = {}
        warm_up()
        ended = self.run(last, self.base)
        assert ended.code == 0, ended.err
        self.files = contents(self.base)
        self.stages = [(path.parts[1], self._name(path)) for path in self.files if path.name == "manifest.json"]

    @cached_property
    def pretraining(self) -> Rig:
        """A rig for the one stage that a report does not need."""
        return Rig(self.folder / "pretraining", "PretrainClip")

    def _name(self, manifest: Path) -> str:
        return str(json.loads(self.files[manifest])["stage"])

    def cache(self, *without: str) -> Path:
        """Return a copy of the undisturbed cache without some stages."""
        root = self.empty()
        shutil.copytree(self.base, root)
        for slug in without:
            shutil.rmtree(root / "shapes" / slug)
        return root

    def empty(self) -> Path:
        """Return the path of a cache that is not there yet."""
        return self.folder / f"cache-{secrets.token_hex(4)}"

    def start(self, verb: str, root: Path, *more: str, before: Callable[[], None] | None = None) -> Running:
        """Start the command line.

        Args:
            verb: what to do.
            root: the cache.
            more: further arguments.
            before: called in the new process before anything else.
        """
        arguments = [verb, "--artifacts", str(root), "--set", *self.settings, *more]
        out, err = os.pipe(), os.pipe()  # no files, for their size may be limited; what a run prints fits into a pipe
        pid = os.fork()
        if pid:
            os.close(out[1])
            os.close(err[1])
            return Running(pid, out[0], err[0])
        code = 70
        try:
            os.setsid()
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            os.environ["FAULTS_LOG"] = str(log_of(root))
            if before:
                before()
            from split_matching.pipeline.cli import main

            code = main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(code)

    def run(self, verb: str, root: Path, *more: str, before: Callable[[], None] | None = None) -> Ended:
        """Run the command line to its end."""
        return self.start(verb, root, *more, before=before).wait()

    def measure(self, slug: str, name: str) -> None:
        """Find out how long a stage takes alone, and how often it changes the cache."""
        if slug in self.seconds:
            return
        root, count = self.cache(slug), self.folder / "count"
        started = time.monotonic()
        ended = self.run(name, root, before=partial(crash_at_change, root, 0, count))
        assert ended.code == 0, ended.err
        self.seconds[slug] = time.monotonic() - started
        self.changes[slug] = len(count.read_bytes())
        count.unlink()
        self.drop(root)

    def finish(self, name: str, root: Path, *more: str, but: Path | None = None) -> str:
        """Run without disturbance; return what is wrong with the result, "" if nothing; `but` is not looked at."""
        ended = self.run(name, root, *more)
        if ended.code:
            return f"{name} ended with {ended.code}: {ended.last}"
        return self.compare(root, but)

    def compare(self, root: Path, but: Path | None = None) -> str:
        """Return how a cache differs from the undisturbed one, in other files than `but`; "" if it does not."""
        found = contents(root)
        for path in sorted((self.files.keys() | found.keys()) - {but}):
            if self.files.get(path) != found.get(path):
                what = "lacks" if path not in found else "has" if path not in self.files else "has another"
                return f"the cache {what} {path}"
        left = [path.name for path in root.glob("*/*/*.partial")]
        return f"left {left}" if left else ""

    def drop(self, root: Path) -> None:
        """Remove a cache and its log."""
        shutil.rmtree(root, ignore_errors=True)
        log_of(root).unlink(missing_ok=True)


def warm_up() -> None:
    """Import and parse here what every run would import and parse again."""
    for module in MODULES:
        importlib.import_module(module)
    from split_matching.configs.load import load_config
    from split_matching.pipeline.stages import make_plan

    make_plan(load_config("shapes", [], list(SETTINGS))).states()


def contents(root: Path) -> dict[Path, bytes]:
    """Return the files of all artifacts by their paths; not of builds and of what killed processes left.

    The last step of a commit removes its lock file, which is empty and in no manifest: a kill just before leaves it
    there, and it is no part of the artifact.
    """
    artifacts = [path for path in root.glob("*/*/*") if len(path.name) == 16 and path.is_dir()]
    files = [path for artifact in artifacts for path in artifact.rglob("*") if path.is_file()]
    return {path.relative_to(root): path.read_bytes() for path in files if path.name != "build.lock"}


def log_of(root: Path) -> Path:
    """Return where runs log the shards and stages that they finish."""
    return root.with_suffix(".log")


def made(root: Path) -> list[str]:
    """Return what was finished since the last call: "shard train-00001.h5 <process>", "stage features <process>"."""
    path = log_of(root)
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def pin() -> None:
    """Make everything that may differ between two runs the same, and log what is finished."""
    from split_matching.cache import build as builds
    from split_matching.cache.artifact import shard_name
    from split_matching.stages.training import pretrain

    pretrain.CHECKPOINT_EVERY = 2  # or so short a training would write none
    pretrain.probe = lambda *arguments: 0.0  # takes longer than all the rest, and writes nothing
    finish, commit = builds.Build.finish, builds.Build.commit

    def log(line: str) -> None:
        with open(os.environ["FAULTS_LOG"], "a") as stream:  # noqa: PTH123
            stream.write(f"{line} {os.getpid()}\n")

    def pinned_finish(self: Any, split: str, index: int, seconds: float) -> None:
        finish(self, split, index, 0.0)
        log(f"shard {self.entry.stage}/{shard_name(split, index)}")

    def pinned_commit(self: Any, seconds: float, summary: Any = None, images: int = 0) -> Any:
        artifact = commit(self, 0.0, summary, images)
        log(f"stage {self.entry.stage}")
        return artifact

    builds.Build.finish, builds.Build.commit = pinned_finish, pinned_commit  # type: ignore[method-assign]
    builds.circumstances = lambda: {"created": "2026-01-01T00:00:00.000+00:00", "host": "host", "versions": {}}


# --- kills ------------------------------------------------------------------------------------------------------------


def crash_at_change(root: Path, number: int, count: Path | None = None) -> None:
    """Kill the group of this process just before it changes the cache for the n-th time; with 0, count the changes."""
    prefix, done = str(root), itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not (event == "fcntl.lockf" or str(arguments[0]).startswith(prefix)):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if count is not None:
            handle = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(handle, b".")
            os.close(handle)
        elif next(done) == number:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


def kill_in_stage(rig: Rig, rng: random.Random, slug: str, name: str, workers: str = "1") -> str | None:
    """Kill everything while a stage is made: at a random moment, or just before a random change of the cache."""
    rig.measure(slug, name)
    root = rig.cache(slug)
    if rng.random() < 0.5:
        number = rng.randint(1, rig.changes[slug])
        process = rig.start(name, root, "--workers", workers, before=partial(crash_at_change, root, number))
    else:
        process = rig.start(name, root, "--workers", workers)
        time.sleep(rng.uniform(0, rig.seconds[slug]))
        process.kill()
    disturbed = process.wait().code == -signal.SIGKILL
    problem = rig.finish(name, root)
    rig.drop(root)
    return problem if disturbed or problem else None


def of_pretraining(rig: Rig, rng: random.Random, case: Callable[..., str | None]) -> str | None:
    """Show a case on PretrainClip, whose weights are in the repository, so that only who asks for it runs it."""
    return case(rig.pretraining, rng, slug="pretrain", name="PretrainClip")


def kill_twice(rig: Rig, rng: random.Random) -> str | None:
    """Kill a run of everything, and the run after it, and the one after that."""
    root = rig.empty()
    for _ in range(3):
        process = rig.start("Report", root, "--workers", "2")
        time.sleep(rng.uniform(0.2, 3))
        process.kill()
        process.wait()
    problem = rig.finish("Report", root)
    rig.drop(root)
    return problem


def kill_worker(rig: Rig, rng: random.Random) -> str | None:
    """Kill one forked worker of two; the run says so in one line."""
    slug, name = rng.choice([stage for stage in rig.stages if stage[0] not in ("shapes", "dataset")])
    root = rig.cache(slug)
    process = rig.start(name, root, "--workers", "2")
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
    problem = problem or rig.finish(name, root)
    rig.drop(root)
    return problem if killed or problem else None


# --- races ------------------------------------------------------------------------------------------------------------


def race(rig: Rig, rng: random.Random, *more: str, name: str = "Report", ready: tuple[str, ...] = ()) -> str:
    """Start four processes at once on an empty cache."""
    root = rig.cache(*ready) if ready else rig.empty()
    processes = []
    for _ in range(4):
        processes.append(rig.start(name, root, *more))
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


# --- luigid -----------------------------------------------------------------------------------------------------------


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


# --- room and permissions ---------------------------------------------------------------------------------------------


def full_disk(rig: Rig, rng: random.Random, slug: str, name: str) -> str | None:
    """Let no file grow beyond a size: that of some output, or half of it, or nothing."""
    sizes = [len(data) for path, data in rig.files.items() if path.parts[1] == slug]
    limit = rng.choice([0, 64, *(size // 2 for size in sizes), *(size - 1 for size in sizes)])
    root = rig.cache(slug)
    ended = rig.run(name, root, before=partial(_limit_files, limit))
    problem = one_line(ended, ("file too large",)) if ended.code else ""
    if not problem and ended.code and contents(root).keys() & {p for p in rig.files if p.parts[1] == slug}:
        problem = "half an artifact is there"
    problem = problem or rig.finish(name, root)
    rig.drop(root)
    return problem if ended.code or problem else None


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def one_line(ended: Ended, reasons: tuple[str, ...]) -> str:
    """Return what is wrong with how a refused run ended: it is to be exit code 1 and one line with a reason."""
    fine = ended.code == 1 and ended.last.startswith("error: ") and "Traceback" not in ended.err
    if fine and "cannot " in ended.last and any(reason in ended.last for reason in reasons):
        return ""
    return f"ended with {ended.code}: {ended.last}"


def full_file_system(rig: Rig, rng: random.Random, slug: str, name: str) -> str | None:
    """Give a stage a small file system of its own, with room for a part of what it writes."""
    size = sum(len(data) + 4096 for path, data in rig.files.items() if path.parts[1] == slug)

    def fill() -> str | None:
        root = rig.empty()
        root.mkdir()
        mount("tmpfs", root, "tmpfs", 0, "size=256m")
        shutil.copytree(rig.base, root, dirs_exist_ok=True)
        shutil.rmtree(root / "shapes" / slug)
        used = shutil.disk_usage(root).used
        mount("tmpfs", root, "tmpfs", MS_REMOUNT, f"size={used + rng.randrange(4096, size + 8192)}")
        ended = rig.run(name, root)
        problem = one_line(ended, ("no space left",)) if ended.code else ""
        mount("tmpfs", root, "tmpfs", MS_REMOUNT, "size=256m")
        problem = problem or rig.finish(name, root)
        return problem if ended.code or problem else None

    return in_own_mounts(fill)


def read_only_mount(rig: Rig, rng: random.Random) -> str | None:
    """Put the cache on a file system that is mounted read-only."""
    slug, name = rng.choice(rig.stages)
    whole, lacking = rig.cache(), rig.cache(slug)

    def look() -> str:
        for root in (whole, lacking):
            mount(str(root), root, "", 4096)
            mount("", root, "", MS_REMOUNT | MS_RDONLY | 4096)
        return read_only(rig, whole, lacking, name, "read-only file system")

    problem = in_own_mounts(look) or rig.finish(name, lacking)
    for root in (whole, lacking):
        rig.drop(root)
    return problem


def read_only_modes(rig: Rig, rng: random.Random) -> str | None:
    """Take the right to write from all folders of the cache, and from root the right to write all the same."""
    slug, name = rng.choice(rig.stages)
    whole, lacking = rig.cache(), rig.cache(slug)
    for root in (whole, lacking):
        for path in (root, *root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    problem = read_only(rig, whole, lacking, name, "permission denied", obey_permissions)
    for root in (whole, lacking):
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    problem = problem or rig.finish(name, lacking)
    for root in (whole, lacking):
        rig.drop(root)
    return problem


def read_only(
    rig: Rig, whole: Path, lacking: Path, name: str, reason: str, before: Callable[[], None] | None = None
) -> str:
    """Return what is wrong with how runs end in caches that cannot be written: one is whole, one lacks a stage."""
    ended = rig.run("Report", whole, before=before)
    if ended.code == 71:
        raise LeftOutError("permissions cannot be enforced here")
    problem = f"the whole one ended with {ended.code}: {ended.last}" if ended.code else rig.compare(whole)
    return problem or one_line(rig.run(name, lacking, before=before), (reason,))


def obey_permissions() -> None:
    """Give up all of root's privileges in this process; leaves it with 71 if that cannot be done."""
    if os.geteuid() == 0:
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None).capset(header, nothing):
            os._exit(71)


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """Call mount(2)."""
    if ctypes.CDLL(None, use_errno=True).mount(
        *(os.fsencode(t) for t in (source, target, kind)), flags, options.encode()
    ):
        raise LeftOutError(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")


def in_own_mounts(work: Callable[[], str | None]) -> str | None:
    """Do something in a process whose mounts nobody else sees; they vanish with it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if ctypes.CDLL(None).unshare(CLONE_NEWNS):
                raise LeftOutError("no mounts of its own for a process here")
            mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
            answer = ["said", work()]
        except LeftOutError as error:
            answer = ["left out", str(error)]
        except Exception as error:
            answer = ["said", f"{type(error).__name__}: {error}"]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:  # noqa: PTH123
        word, said = json.loads(stream.read())
    os.waitpid(pid, 0)
    if word == "left out":
        raise LeftOutError(said)
    return str(said) if said is not None else None


def obstacle(rig: Rig, rng: random.Random) -> str:
    """Put a folder where a file should be, or a file where a folder should be."""
    slug = rng.choice(rig.stages)[0]
    folder = next(path.parent for path in rig.files if path.parts[1] == slug and path.name == "manifest.json")
    partial_folder = folder.with_name(folder.name + ".partial")
    outputs = [path.relative_to(folder) for path in rig.files if path.is_relative_to(folder)]
    output = rng.choice(outputs)
    files = [Path(), Path("shapes"), Path("shapes") / slug, folder, partial_folder]
    folders = [folder / output, folder / "manifest.json", *(partial_folder / each for each in (output, "build.json"))]
    folders += [partial_folder / each for each in ("build.lock", "checkpoint.pt", "metrics.jsonl")]
    place = rng.choice(files + folders)
    root = rig.cache() if place == folder / output or place == folder / "manifest.json" else rig.cache(slug)
    path = root / place
    if place in files:
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("in the way")
    else:
        path.unlink(missing_ok=True)
        path.mkdir(parents=True)
        (path / "something").write_text("in the way")
    what = f"{'file' if place in files else 'folder'} {place}"
    ended = rig.run("Report", root)
    problem = one_line(ended, ("in the way",)) if ended.code else rig.compare(root)
    if ended.code and not problem:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        problem = rig.finish("Report", root)
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


# --- damage -----------------------------------------------------------------------------------------------------------


def spoil(path: Path, rng: random.Random) -> str:
    """Flip one bit of a file, or cut it off somewhere; returns what was done."""
    data = path.read_bytes()
    if rng.random() < 0.5:
        size = rng.randrange(len(data))
        path.write_bytes(data[:size])
        return f"cut to {size} of {len(data)} bytes"
    place = rng.randrange(len(data))
    path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
    return f"flipped byte {place} of {len(data)}"


def by_kind(paths: list[Path], rng: random.Random) -> Path:
    """Choose a file, all kinds alike: stage and ending."""
    kinds = sorted({(path.parts[1], path.suffix) for path in paths})
    kind = rng.choice(kinds)
    return rng.choice(sorted(path for path in paths if (path.parts[1], path.suffix) == kind))


def damage_verified(rig: Rig, rng: random.Random) -> str:
    """Damage a file; `verify` names it and sets it aside, and the next run makes that shard again, or that stage."""
    root, path = rig.cache(), by_kind(list(rig.files), rng)
    what = f"{path} {spoil(root / path, rng)}"
    found = rig.run("verify", root)
    problem = (
        "" if found.code == 4 and str(path) in found.out else f"verify ended with {found.code}: {found.out[-200:]}"
    )
    problem = problem or rig.finish("Report", root)
    again = [line.split()[1] for line in made(root) if line.startswith("shard")]
    if path.suffix == ".h5" and path.parts[1] != "evaluate" and again != [f"{path.parts[1]}/{path.name}"]:
        problem = problem or f"shards made again: {again}"
    again_stages = {line.split("/")[0] for line in again}
    if again_stages - {path.parts[1]}:
        problem = problem or f"shards made again: {again}"
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


def damage_read(rig: Rig, rng: random.Random) -> str:
    """Damage a file that the next stages read, and just run: it is found on reading, or did not matter."""
    slugs = [slug for slug, _ in sorted(rig.stages, key=lambda stage: ORDER.index(stage[0]))]
    paths = [path for path in rig.files if path.parts[1] != "report"]
    path = by_kind(paths, rng)
    root = rig.cache(*slugs[slugs.index(path.parts[1]) + 1 :])
    what = f"{path} {spoil(root / path, rng)}"
    problem = rig.finish("Report", root, but=path)
    if not problem and (root / path).read_bytes() != rig.files[path]:
        # nobody read those bytes, and nothing made from them differs; whoever asks is told all the same
        found = rig.run("verify", root)
        if found.code != 4 or str(path) not in found.out:
            problem = f"verify ended with {found.code}: {found.out[-200:]}"
        problem = problem or rig.finish("Report", root)
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


def damage_build(rig: Rig, rng: random.Random) -> str | None:
    """Kill a stage, and damage a file of what it left: the next run goes on without it."""
    slug, name = rng.choice(
        [stage for stage in rig.stages if stage[0] in ("features", "pseudo_masks", "regions", "train")]
    )
    rig.measure(slug, name)
    root = rig.cache(slug)
    number = rng.randint(rig.changes[slug] // 3, rig.changes[slug])
    rig.start(name, root, before=partial(crash_at_change, root, number)).wait()
    left = [path for path in root.glob(f"shapes/{slug}/*.partial/*") if path.stat().st_size]
    if not left:
        rig.drop(root)
        return None
    path = rng.choice(sorted(left))
    what = f"{path.name} of {slug} {spoil(path, rng)}"
    # what nobody has read yet is read now
    problem = rig.finish("Report" if rng.random() < 0.5 else name, root)
    if problem:
        rig.run("verify", root)
        problem = rig.finish("Report", root)
    rig.drop(root)
    return f"{what}: {problem}" if problem else ""


# --- clocks and places ------------------------------------------------------------------------------------------------


def clock(rig: Rig, rng: random.Random) -> str:
    """Let the clock jump back and forth in a run, kill it, and go on years before; then all is fresh."""
    root = rig.cache("features", "pseudo_masks", "regions", "train")
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


# --- the suite --------------------------------------------------------------------------------------------------------

ORDER = ("shapes", "dataset", "text", "features", "pseudo_masks", "regions", "train", "evaluate", "report")

Case = Callable[[Rig, random.Random], str | None]
"""Returns what is wrong, "" if nothing, and None if the fault came too late to disturb anything."""


def cases(rig: Rig, short: bool) -> dict[str, tuple[Case, int]]:
    """Return the cases with the number of disturbances that each is to have."""
    many, few = (1, 1) if short else (20, 5)
    stages = {slug: dict(rig.stages)[slug] for slug in ORDER}
    if short:
        stages = {slug: name for slug, name in stages.items() if slug in ("shapes", "text", "features", "train")}
    found: dict[str, tuple[Case, int]] = {}
    for slug, name in stages.items():
        found[f"kill in {name}"] = (partial(kill_in_stage, slug=slug, name=name), many)
    if not short:  # a cache of its own, and so an undisturbed run of its own: 15 s
        found["kill in PretrainClip"] = (partial(of_pretraining, case=kill_in_stage), many)
    for slug, name in stages.items():
        if slug == "features" or (slug == "train" and not short):
            found[f"kill in {name}, 2 workers"] = (partial(kill_in_stage, slug=slug, name=name, workers="2"), many)
    found["kill everything three times"] = (kill_twice, many)
    found["kill one of 2 workers"] = (kill_worker, many)
    if not short:
        found["race of four"] = (race, many)
        found["luigid: race of four"] = (luigid_race, many)
        found["race of four for shards, 2 workers each"] = (partial(race_for_shards, more=("--workers", "2")), few)
    found["race of four for shards"] = (race_for_shards, many)
    found["race of four --force"] = (race_of_forces, many)
    found["luigid: race of four for shards"] = (partial(luigid_race, shards=True), many)
    found["luigid: one of two is killed"] = (luigid_dead_worker, many)
    found["luigid: --force within 10 s"] = (luigid_force, few)
    found["luigid: other caches and configs"] = (luigid_strangers, few)
    found["luigid: scheduler is lost"] = (luigid_lost, few)
    for slug, name in stages.items():
        found[f"file size limit in {name}"] = (partial(full_disk, slug=slug, name=name), many)
    if not short:
        found["file size limit in PretrainClip"] = (partial(of_pretraining, case=full_disk), many)
        found["full file system in PretrainClip"] = (partial(of_pretraining, case=full_file_system), few)
    for slug, name in stages.items():
        if not short or slug == "features":
            found[f"full file system in {name}"] = (partial(full_file_system, slug=slug, name=name), many)
    found["read-only mount"] = (read_only_mount, few)
    found["read-only folders"] = (read_only_modes, few)
    found["folder for a file, file for a folder"] = (obstacle, 2 if short else 60)
    found["damage, then verify"] = (damage_verified, 2 if short else 100)
    found["damage, then a run that reads it"] = (damage_read, 2 if short else 100)
    found["damage to an unfinished stage"] = (damage_build, 2 if short else 60)
    found["clock back and forth"] = (clock, many)
    found["cache moved, copied or linked"] = (moved, many)
    return found


def race_for_shards(rig: Rig, rng: random.Random, more: tuple[str, ...] = ()) -> str:
    """Start four processes at once where only sharded stages are missing."""
    return race(rig, rng, *more, name="EmbedRegions", ready=("features", "pseudo_masks", "regions"))


def repeat(rig: Rig, case: Case, name: str, wanted: int, seed: int) -> dict[str, Any]:
    """Run a case until it has disturbed often enough, or is seen never to disturb."""
    result: dict[str, Any] = {"case": name, "runs": 0, "disturbed": 0, "failures": [], "left_out": "", "seconds": 0.0}
    started = time.monotonic()
    for number in range(4 * wanted):
        if result["disturbed"] >= wanted:
            break
        try:
            problem = case(rig, random.Random(f"{seed}/{name}/{number}"))
        except LeftOutError as error:
            result["left_out"] = str(error)
            break
        result["runs"] += 1
        result["disturbed"] += problem is not None
        if problem:
            result["failures"].append(f"{name}, seed {seed}, run {number}: {problem}")
            print(result["failures"][-1], file=sys.stderr, flush=True)
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def main() -> int:
    """Run the suite; prints a table and returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Kills, starves, races and damages runs of the pipeline.")
    parser.add_argument("--short", action="store_true", help="few repetitions, less than a minute")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose names hold this text")
    parser.add_argument("--times", type=int, metavar="N", help="disturbances for each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    warnings_off()
    pin()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    results = []
    try:
        rig = Rig(folder)
        print("| case | runs | disturbed | failures | seconds |\n|---|---:|---:|---:|---:|", flush=True)
        for name, (case, wanted) in cases(rig, options.short).items():
            if options.only in name:
                wanted = options.times or wanted
                results.append(result := repeat(rig, case, name, wanted, options.seed))
                shown = f"left out: {result['left_out']}" if result["left_out"] else len(result["failures"])
                print(
                    f"| {name} | {result['runs']} | {result['disturbed']} | {shown} | {result['seconds']} |", flush=True
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(results), encoding="utf-8")
    return int(any(result["failures"] for result in results))


def warnings_off() -> None:
    """Keep luigi's greeting out of the table."""
    import warnings

    warnings.simplefilter("ignore")


MODULES = (
    "luigi",
    *(f"split_matching.pipeline.{name}" for name in ("cli", "run.launch", "run.tasks", "run.luigid", "verbs.status")),
    *(f"split_matching.stages.data.{name}" for name in ("shapes", "prepare")),
    *(f"split_matching.stages.candidates.{name}" for name in ("features", "pseudo_masks", "regions")),
    "split_matching.stages.candidates.clustering.multiscale_faiss",
    *(f"split_matching.stages.training.{name}" for name in ("pretrain", "text", "train")),
    "split_matching.stages.inference.evaluate",
    "split_matching.stages.inference.predictors.decoder",
    "split_matching.stages.pages.report",
)

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
