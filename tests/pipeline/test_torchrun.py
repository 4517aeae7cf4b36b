"""The command line under torchrun: the first process runs it, all train, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from split_matching.cache.entry import read_progress
from split_matching.pipeline.cli import main
from tests.handmade import TINY

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SETTINGS = (*TINY, "train.batch=4", "train.steps=8", "train.lr=5e-5", "shapes.train_scenes=6", "runtime.threads=1")
TRAIN = ["TrainDecoder", "--dataset", "shapes", "--device", "cpu"]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


class Job:
    """Processes as a scheduler without torchrun starts them: exit codes and output of each can be looked at."""

    def __init__(self, artifacts: Path, *more: str, count: int = 2) -> None:
        self.artifacts = artifacts
        self.left = self.logs()  # what an earlier job was killed over says nothing about this one
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        command = [sys.executable, "run_pipeline.py", *TRAIN, "--artifacts", str(artifacts), "--set", *SETTINGS, *more]
        self.processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]

    def end(self) -> list[tuple[int, list[str], list[str]]]:
        """Exit code, lines of stdout and lines of stderr that are no progress, of every process."""
        results = []
        for process in self.processes:
            out, err = process.communicate(timeout=120)
            lines = [line for line in err.splitlines() if line.startswith(("error", "interrupted", "Traceback"))]
            results.append((process.returncode, out.splitlines(), lines))
        return results

    def logs(self) -> set[Path]:
        return set(self.artifacts.glob("shapes/train/*.partial/metrics.jsonl"))

    def wait_for_steps(self) -> None:
        end = time.monotonic() + 200
        while not any(path.stat().st_size for path in self.logs() - self.left):
            assert time.monotonic() < end, [process.poll() for process in self.processes]
            time.sleep(0.1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with everything up to the decoder, trained by one process."""
    artifacts = tmp_path_factory.mktemp("distributed")
    assert main([*TRAIN, "--artifacts", str(artifacts), "--set", *SETTINGS]) == 0
    return artifacts


def torchrun(artifacts: Path, *more: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command = [*launcher, "--master-port", free_port(), "run_pipeline.py", *TRAIN, "--artifacts", str(artifacts)]
    return subprocess.run(
        [*command, "--set", *SETTINGS, *more], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_torchrun_gives_the_weights_of_one_process(alone: Path) -> None:
    [path] = alone.glob("shapes/train/*/weights.safetensors")
    before, key = load_file(path), path.parent.name
    done = torchrun(alone, "--force")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if " ran in " in line] == ["TrainDecoder"]
    [path] = alone.glob("shapes/train/*/weights.safetensors")
    after = load_file(path)
    assert path.parent.name == key  # how many processes there are enters no key
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=1e-5, rtol=0), (name, (value - after[name]).abs().max())
    assert any(not torch.equal(value, after[name]) for name, value in before.items()), "it was not trained in parts"
    again = torchrun(alone)
    assert again.returncode == 0, again.stderr
    assert " ran in " not in again.stdout
    assert again.stdout.splitlines()[-1] == str(path)


def test_a_failure_of_the_first_process_ends_all_with_its_exit_code(alone: Path) -> None:
    (first, _, why), (second, out, silent) = Job(alone, "data.fold=9").end()
    assert (first, second) == (2, 2)
    assert len(why) == 1 and "data.fold" in why[0]
    assert not out and not silent


def test_a_batch_that_cannot_be_shared_is_said_once(alone: Path) -> None:
    (first, _, why), (second, _, silent) = Job(alone, "train.batch=3").end()
    assert (first, second) == (2, 2)
    [line] = why
    assert line.startswith("error: TrainDecoder: train.batch 3 cannot be shared evenly by 2 processes (log: ")
    assert not silent


@pytest.mark.parametrize("receiver", [0, 1])
def test_a_signal_to_one_process_saves_the_step_and_ends_both(alone: Path, receiver: int) -> None:
    job = Job(alone, "train.steps=100000", "train.checkpoint_every=100000", f"train.seed={receiver + 2}")
    job.wait_for_steps()
    job.processes[receiver].send_signal(signal.SIGTERM)
    (first, _, said), (second, _, silent) = job.end()
    assert (first, second) == (130, 130 if receiver == 0 else -signal.SIGTERM)
    assert len(said) == 1 and said[0].startswith("interrupted") and not silent
    [path] = job.logs() - job.left
    assert read_progress(path.parent)[0] > 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_takes_the_other_with_it(alone: Path, victim: int) -> None:
    job = Job(alone, "train.steps=100000", f"train.seed={victim}")
    job.wait_for_steps()
    job.processes[victim].send_signal(signal.SIGKILL)
    results = job.end()
    assert results[victim][0] == -signal.SIGKILL
    code, _, why = results[1 - victim]
    assert code == 1
    assert len(why) == 1 and "lost" in why[0] and "the same command resumes" in why[0]
