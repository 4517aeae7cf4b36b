"""How a run with worker processes ends by a signal, at moments when Python or the system loses one.

Each test runs a short script in a process of its own: hooks of `os.fork` stay for the life of a process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAD = """
import multiprocessing, os, signal, sys, time
import luigi
from split_matching.pipeline.run import ending
from split_matching.pipeline.run.workers import WorkerFactory

parent = os.getpid()
fork = multiprocessing.get_context("fork")
multiprocessing.set_start_method("fork")

def send(number):
    if os.getpid() == parent:
        os.kill(parent, number)
"""


def run(tmp_path: Path, script: str) -> tuple[str, float]:
    """Run a script; return what it printed, and the seconds that it took."""
    path = tmp_path / "script.py"
    path.write_text(HEAD + script)
    started = time.monotonic()
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), time.monotonic() - started


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("hook", ["before", "after_in_parent"])
def test_a_signal_while_a_worker_is_started_ends_the_run(tmp_path: Path, hook: str, number: str) -> None:
    script = f"""
os.register_at_fork({hook}=lambda: send(signal.{number}))
worker = fork.Process(target=time.sleep, args=(50,))
try:
    with ending.interruptible():
        worker.start()
        time.sleep(40)
    print("went on")
except KeyboardInterrupt:
    print("interrupted", worker.is_alive(), signal.Signals(ending.received).name)
"""
    printed, _ = run(tmp_path, script)
    assert printed == f"interrupted False {number}"


def test_a_worker_that_did_not_get_the_first_signal_gets_another(tmp_path: Path) -> None:
    script = """
def work(ready):
    def second(number, frame):
        os._exit(7)
    def first(number, frame):
        signal.signal(signal.SIGTERM, second)
    signal.signal(signal.SIGTERM, first)
    ready.set()
    time.sleep(50)

ready = fork.Event()
worker = fork.Process(target=work, args=(ready,))
try:
    with ending.interruptible():
        worker.start()
        ready.wait()
        send(signal.SIGTERM)
        time.sleep(40)
except KeyboardInterrupt:
    worker.join()
    print("interrupted", worker.exitcode)
"""
    printed, seconds = run(tmp_path, script)
    assert printed == "interrupted 7"
    assert seconds < 25


def test_a_task_of_luigi_that_does_not_end_is_killed(tmp_path: Path) -> None:
    script = """
class Stubborn(luigi.Task):
    number = luigi.IntParameter()

    def run(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(f"{folder}/{self.number}", "w").close()
        if self.number == 1:
            while len(os.listdir(folder)) < 2:
                time.sleep(0.05)
            os.kill(parent, signal.SIGTERM)
        time.sleep(50)

import tempfile, types
class Process:  # as that of psutil, with which luigi waits for the end of a process if it is installed
    def __init__(self, pid):
        self.pid = pid
    def children(self, recursive):
        return []
    def wait(self):
        os.waitpid(self.pid, 0)

sys.modules["psutil"] = types.SimpleNamespace(Process=Process, NoSuchProcess=ProcessLookupError)
folder = tempfile.mkdtemp()
ending.END_SECONDS = 1.0
try:
    with ending.interruptible():
        luigi.build([Stubborn(0), Stubborn(1)], WorkerFactory(), workers=2, local_scheduler=True, log_level="CRITICAL")
    print("went on")
except KeyboardInterrupt:
    for worker in multiprocessing.active_children():
        worker.join(5)
    print("interrupted", len(multiprocessing.active_children()))
"""
    printed, seconds = run(tmp_path, script)
    assert printed == "interrupted 0"
    assert seconds < 25


def test_a_second_signal_leaves_workers_the_time_to_save(tmp_path: Path) -> None:
    """The first one comes while a worker is started and waits; the second one comes before it has its effect."""
    script = """
def save(ready):
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    ready.set()
    while not received:
        time.sleep(0.05)
    time.sleep(1)
    os._exit(7)

ready = fork.Event()
first, second = (fork.Process(target=save, args=(ready,)) for _ in range(2))
try:
    with ending.interruptible():
        first.start()
        ready.wait()
        os.register_at_fork(after_in_parent=lambda: send(signal.SIGTERM))
        second.start()
        send(signal.SIGUSR1)
        time.sleep(40)
except KeyboardInterrupt:
    first.join()
    print("interrupted", first.exitcode)
"""
    printed, _ = run(tmp_path, script)
    assert printed == "interrupted 7"


def test_a_signal_at_the_last_start_is_not_lost(tmp_path: Path) -> None:
    script = """
os.register_at_fork(after_in_parent=lambda: send(signal.SIGTERM))
worker = fork.Process(target=time.sleep, args=(0,))
try:
    with ending.interruptible():
        worker.start()
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
time.sleep(0.2)
"""
    printed, _ = run(tmp_path, script)
    assert printed == "interrupted"


def test_a_run_inside_a_worker_can_be_interrupted(tmp_path: Path) -> None:
    script = """
def work():
    try:
        with ending.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(40)
    except KeyboardInterrupt:
        os._exit(9)

worker = fork.Process(target=work)
worker.start()
worker.join()
print(worker.exitcode)
"""
    printed, _ = run(tmp_path, script)
    assert printed == "9"
