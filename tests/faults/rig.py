"""A cache with the result of an undisturbed run, and the means to start runs that are disturbed.

Times and the host's name are pinned, for they are all that may differ. Libraries are imported once, and every run is a
fork of this process in a session of its own, so that it takes no second and can be killed as a whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

LIMIT = 300.0  # seconds after which a run counts as hung
SETTINGS = (
    *("shapes.train_scenes=6", "shapes.val_scenes=3", "shapes.image_size=64", "features.size=64"),
    *("decoder.dim=32", "decoder.ffn=32", "decoder.heads=2", "decoder.layers=1", "evaluate.gamma_sweep=[0.1]"),
    *("train.steps=12", "train.batch=2", "train.log_every=1", "train.checkpoint_every=3", "report.examples=2"),
    *("runtime.shard_size=1", "runtime.threads=1", "pretrain.steps=5", "pretrain.batch=2", "pretrain.warmup=1"),
)
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "fcntl.lockf", "open")


STAGES = {
    "shapes": "RenderShapes",
    "dataset": "PrepareDataset",
    "text": "EmbedText",
    "features": "ExtractFeatures",
    "pseudo_masks": "ClusterPseudoMasks",
    "regions": "EmbedRegions",
    "train": "TrainDecoder",
    "evaluate": "Evaluate",
    "report": "Report",
}
"""The stages of a report by the names of their folders, in the order in which they run."""


class LeftOutError(Exception):
    """This machine cannot show this case."""


@dataclass(frozen=True)
class Case:
    """Something that goes wrong.

    Args:
        run: makes it go wrong once; returns what is wrong with how that ended, "" if nothing, and None if it came too
            late to disturb anything.
        wanted: number of disturbances in the long form.
        size: how many tries one call makes.
    """

    run: Callable[[Rig, random.Random], str | None]
    wanted: int
    size: int = 1


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
        for stage in without:
            shutil.rmtree(root / "shapes" / stage)
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

    def measure(self, stage: str, command: str) -> None:
        """Find out how long a stage takes alone, and how often it changes the cache."""
        if stage in self.seconds:
            return
        root, count = self.cache(stage), self.folder / "count"
        started = time.monotonic()
        ended = self.run(command, root, before=partial(crash_at_change, root, 0, count))
        assert ended.code == 0, ended.err
        self.seconds[stage] = time.monotonic() - started
        self.changes[stage] = len(count.read_bytes())
        count.unlink()
        self.drop(root)

    def finish(self, command: str, root: Path, *more: str, but: Path | None = None) -> str:
        """Run without disturbance; return what is wrong with the result, "" if nothing; `but` is not looked at."""
        ended = self.run(command, root, *more)
        if ended.code:
            return f"{command} ended with {ended.code}: {ended.last}"
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
    from split_matching.cache.names import shard_name
    from split_matching.stages.inference import complexity
    from split_matching.stages.pages import plots
    from split_matching.stages.training import pretrain

    pretrain.CHECKPOINT_EVERY = 2  # or so short a training would write none
    # what takes longer than all the rest, and writes nothing of its own
    pretrain.probe = lambda *arguments: 0.0
    plots._svg_data_uri = lambda *arguments: "data:image/svg+xml,"
    complexity.count_flops = lambda *arguments: 0
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


def one_line(ended: Ended, reasons: tuple[str, ...], code: int = 1) -> str:
    """Return what is wrong with how a refused run ended: it is to be an exit code and one line with a reason."""
    fine = ended.code == code and ended.last.startswith("error: ") and "Traceback" not in ended.err
    if fine and any(reason in ended.last for reason in reasons) and (code != 1 or "cannot " in ended.last):
        return ""
    return f"ended with {ended.code}: {ended.last}"


def obey_permissions() -> None:
    """Give up all of root's privileges in this process; leaves it with 71 if that cannot be done."""
    if os.geteuid() == 0:
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None).capset(header, nothing):
            os._exit(71)


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


def warnings_off() -> None:
    """Keep luigi's greeting out of the table."""
    warnings.simplefilter("ignore")
