"""The real stages on a real Slurm of one node: `make slurm`. Not found by a plain pytest: it takes minutes.

One run, disturbed: its command is interrupted while the jobs go on, a task of an array is killed, and the training is
told that its time is up. Another training is ended by SIGTERM, and then preempted. In the end every file is as without
Slurm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.handmade import TINY
from tests.slurm.one_node import missing_programs, one_node

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *TINY,
    "runtime.device=cpu",
    "shapes.train_scenes=12",
    "runtime.shard_size=2",
    "train.steps=400",
    "train.checkpoint_every=400",
)
LIMIT = 500.0  # seconds for anything to happen

pytestmark = pytest.mark.skipif(bool(missing_programs()), reason="needs Debian's slurm-wlm and munge")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short one: sockets lie there
    (path / "slurm").mkdir()
    with one_node(path / "slurm"):
        yield path
    shutil.rmtree(path)


def command(cache: Path, *more: str) -> list[str]:
    words = ["Evaluate", "--dataset", "shapes", "--artifacts", str(cache), "--set", *SETTINGS, *more]
    return [sys.executable, "run_pipeline.py", *words]


def start(cache: Path, *more: str) -> subprocess.Popen[str]:
    words = command(cache, *more, "runtime.slurm=--time=20", "--engine", "slurm", "--workers", "2")
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.1)


def step(cache: Path) -> int:
    for path in cache.glob("shapes/train/*.partial/metrics.jsonl"):
        lines = path.read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    return 0


def pids(words: str) -> list[int]:
    """Processes of submitit whose command line has some words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "submitit.core._submit" in line and words in line and "srun" not in line:
            found.append(int(path.parent.name))
    return found


def job_of(stage: str) -> str:
    rows = subprocess.run(["squeue", "--noheader", "--format=%F %j"], capture_output=True, text=True, check=True).stdout
    return next(row.split()[0] for row in rows.splitlines() if row.split()[1].startswith(stage))


def state_of(job: str) -> str:
    return subprocess.run(
        ["squeue", "--noheader", f"--job={job}", "--format=%T"], capture_output=True, text=True
    ).stdout.strip()


def saved_step(cache: Path) -> int:
    """The step from which a training would continue; -1 without a checkpoint."""
    found = list(cache.glob("shapes/train/*.partial/checkpoint.json"))
    return json.loads(found[0].read_text())["step"] if found else -1


def begin_again(job: str, process: subprocess.Popen[str]) -> None:
    until(lambda: state_of(job) == "PENDING", process)  # the same job, to be started again
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)  # else Slurm waits 2 min


def contents(cache: Path) -> dict[str, dict[str, str]]:
    """sha256 by file, for every artifact by stage and key."""
    found = {}
    for path in cache.glob("shapes/*/*/manifest.json"):
        files = json.loads(path.read_text())["files"]
        found["/".join(path.parts[-3:-1])] = {name: file["sha256"] for name, file in files.items()}
    return found


def test_a_disturbed_run_ends_with_the_bytes_of_one_without_slurm(folder: Path) -> None:
    cache = folder / "cache"
    first = start(cache)
    until(lambda: list(cache.glob("shapes/logs/slurm/Evaluate-*/*_submitted.pkl")), first)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130 and "the jobs go on" in said
    jobs = re.findall(r"job (\d+)", said)
    assert len(jobs) == 5

    second = start(cache)  # waits for the same jobs, until one of them dies
    until(lambda: list(cache.glob("shapes/features/*.partial/*.done.json")) and pids("ExtractFeatures-"), second)
    os.kill(pids("ExtractFeatures-")[0], signal.SIGKILL)
    _, said = second.communicate(timeout=LIMIT)
    assert second.returncode == 1, said
    assert set(re.findall(r"^\S.*: job (\d+)$", said, re.MULTILINE)) <= set(jobs)  # the first may have ended before
    assert re.search(r"error: ExtractFeatures: job \d+ ended before its work \(.*failed", said), said
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("shapes/features/*.partial/*.h5")}
    assert kept

    third = start(cache)
    until(lambda: step(cache) >= 20, third)
    assert not list(cache.glob("shapes/train/*.partial/checkpoint.pt"))  # none was due yet
    training = job_of("Evaluate")
    subprocess.run(["scancel", "--signal=USR1", training], check=True)  # what Slurm sends before the limit
    until(lambda: saved_step(cache) >= 20, third)
    begin_again(training, third)
    out, said = third.communicate(timeout=LIMIT)
    assert third.returncode == 0, said
    assert out.splitlines()[-1].endswith("metrics.json")
    times = {path.name: path.stat().st_mtime_ns for path in cache.glob("shapes/features/*/*.h5")}
    assert all(times[path.name] == made for path, made in kept.items())  # none of these was made again
    log = next((cache / "shapes/logs/slurm").glob(f"Evaluate-*/{training}_0_log.out")).read_text()
    assert log.count("Starting with JobEnvironment") == 2

    plain = folder / "plain"
    subprocess.run(command(plain, "--workers", "2"), cwd=ROOT, check=True, capture_output=True, timeout=LIMIT)
    assert contents(plain) == contents(cache) and len(contents(plain)) == 8


def test_what_was_made_is_shared_as_it_is(folder: Path) -> None:
    """The manifests of all real stages; needs the first test."""
    far, other = f"file://{folder}/far", folder / "other"
    for verb, cache in (("push", folder / "plain"), ("pull", other)):
        words = [verb, *command(cache)[3:], "--remote", far]
        subprocess.run([sys.executable, "run_pipeline.py", *words], cwd=ROOT, check=True, timeout=LIMIT)
    assert contents(other) == contents(folder / "plain")
    done = subprocess.run(command(other), cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT)
    assert " ran in " not in done.stdout and done.stdout.splitlines()[-1].endswith("metrics.json")


def test_a_training_that_is_ended_or_preempted_loses_no_step(folder: Path) -> None:
    cache, plain, other = folder / "preempted", folder / "undisturbed", "train.seed=1"
    subprocess.run(command(plain, other), cwd=ROOT, check=True, capture_output=True, timeout=LIMIT)
    shutil.copytree(plain, cache)
    shutil.rmtree(cache / "shapes/train")
    shutil.rmtree(cache / "shapes/evaluate")

    first = start(cache, other)
    until(lambda: step(cache) >= 20, first)
    seen = step(cache)
    subprocess.run(["scancel", "--signal=TERM", job_of("Evaluate")], check=True)
    _, said = first.communicate(timeout=LIMIT)
    assert first.returncode == 1 and re.search(r"job \d+ ended before its work", said), said
    saved = saved_step(cache)
    assert saved >= seen

    second = start(cache, other)
    until(lambda: step(cache) >= saved + 20, second)
    seen, training = step(cache), job_of("Evaluate")
    subprocess.run(["scontrol", "requeue", training], check=True)  # what preemption does: SIGTERM, and soon SIGKILL
    until(lambda: saved_step(cache) >= seen, second)
    begin_again(training, second)
    _, said = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, said
    assert contents(plain) == contents(cache) and len(contents(plain)) == 8


def test_what_slurm_refuses_is_one_line(folder: Path) -> None:
    words = command(folder / "refused", "runtime.slurm=--time=20 --partition=none", "--engine", "slurm")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: Slurm refused a job") and "invalid partition" in error.lower()
