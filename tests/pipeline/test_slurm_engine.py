"""The engine of Slurm without Slurm: jobs run here as they are submitted. With a real one: `make slurm`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from split_matching.configs.load import load_config
from split_matching.environment import command_line
from split_matching.errors import ConfigError
from split_matching.pipeline.run import slurm, slurm_job
from tests.pipeline.toy_project import Toy

OPTIONS = ("--engine", "slurm", "--set", "runtime.slurm=--time=10 --qos=high")


class Jobs:
    """What was submitted; runs the jobs at once, as Slurm would before the command looks again."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.options: list[dict[str, Any]] = []
        self.run = True
        self.active: list[tuple[str, str]] = []

    def submit(self, folder: Path, name: str, jobs: list[slurm_job.Job], options: dict[str, Any]) -> str:
        self.tasks[name.partition("-")[0]] = len(jobs)
        self.options.append(options)
        codes = [self.code_of(job) for job in jobs if self.run]
        self.run = self.run and not any(codes)  # jobs that depend on one that failed never begin
        return str(100 + len(self.options))

    def code_of(self, job: slurm_job.Job) -> Any:
        try:
            job()
        except SystemExit as end:
            return end.code
        return 0


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = Jobs()
    monkeypatch.setattr(slurm, "submit_jobs", made.submit)
    monkeypatch.setattr(slurm, "_squeue", lambda name, *more: made.active)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(slurm_job, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", sys.argv)  # jobs replace it
    return made


def test_arrays_for_shards_and_a_job_for_what_lies_between(project: Toy, jobs: Jobs) -> None:
    assert project.run("Page", *OPTIONS, "--workers", "3") == 0, project.err
    assert jobs.tasks == {"Listing": 1, "Squares": 3, "Page": 1}  # numbers and listing are one job, total and page too
    assert [options.get("dependency") for options in jobs.options] == [None, "afterok:101", "afterok:102"]
    assert all(options["time"] == "10" and options["qos"] == "high" for options in jobs.options)
    ran = project.log()
    assert sorted(line for line in ran if "train" in line) == [f"square train {i:04d}" for i in range(10)]
    assert project.total() == str(sum(i * i for i in range(10)) * load_config("shapes").pseudo_masks.k)
    assert project.run("Page") == 0 and not project.ran()  # fresh for other engines as well


def test_a_sharded_stage_is_committed_by_the_command_that_waits(project: Toy, jobs: Jobs) -> None:
    assert project.run("Squares", *OPTIONS, "--workers", "50") == 0, project.err
    assert jobs.tasks["Squares"] == 4  # shards
    project.log()
    assert project.run("Squares", *OPTIONS, "--force") == 0
    assert jobs.tasks["Squares"] == 1 and len(project.log()) == 13


def test_a_failure_in_a_job_is_the_error_of_the_command(project: Toy, jobs: Jobs) -> None:
    project.trouble("data 0005")
    assert project.run("Page", *OPTIONS, "--workers", "2") == 3
    assert project.err[-1].startswith("error: Squares: image 0005 is unreadable: mend it")
    project.trouble("")
    project.log()
    jobs.run = True
    assert project.run("Page", *OPTIONS, "--workers", "2") == 0
    again = project.log()
    assert "numbers" not in again and "square train 0000" not in again and "square train 0005" in again


def test_a_failure_of_a_whole_stage_keeps_its_words(project: Toy, jobs: Jobs) -> None:
    project.trouble("total")
    assert project.run("Page", *OPTIONS) == 1
    assert "Total: RuntimeError: no total" in project.err[-1]


def test_a_job_that_ends_without_a_word_is_named(project: Toy, jobs: Jobs) -> None:
    jobs.run = False
    assert project.run("Page", *OPTIONS) == 1
    assert project.err[-1].startswith("error: Listing: job 101 ended before its work")
    assert "logs/slurm/Listing-" in project.err[-1]


def test_a_job_that_is_there_is_waited_for(project: Toy, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [[("7", "PENDING")], [("7", "RUNNING")], [("7", "COMPLETING")], [], []]
    monkeypatch.setattr(slurm, "_squeue", lambda name, *more: states.pop(0) if states else [])
    assert project.run("Listing", *OPTIONS) == 1  # the other one did not do it
    assert not jobs.options
    assert any("job 7" in line for line in project.err)


def test_without_slurm_or_submitit_one_line(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: Any, **more: Any) -> None:
        raise FileNotFoundError("squeue")

    monkeypatch.setattr(subprocess, "run", absent)
    assert project.run("Page", *OPTIONS) == 2
    assert "there is no Slurm here" in project.err[-1]


class Squeue:
    """Answers that `subprocess.run` gives one after another, the last one again and again."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers, self.calls = list(answers), 0

    def __call__(self, words: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        code, out, err = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        return subprocess.CompletedProcess(words, code, out, err)


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Squeue]:
    def answers(*given: tuple[int, str, str]) -> Squeue:
        made = Squeue(*given)
        monkeypatch.setattr(subprocess, "run", made)
        return made

    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.1)
    return answers


def test_a_slurm_that_never_answers_ends_with_its_own_words(project: Toy, squeue: Callable[..., Squeue]) -> None:
    asked = squeue((1, "", "slurm_load_jobs error:\nUnable to contact slurm controller\n"))
    assert project.run("Page", *OPTIONS) == 1
    assert asked.calls > 1
    said = [line for line in project.err if "slurm_load_jobs error: Unable to contact slurm controller" in line]
    assert len(said) == 2 and "trying again" in said[0] and said[1].startswith("error: Slurm does not answer")


def test_a_slurm_that_restarts_is_waited_for(squeue: Callable[..., Squeue], capsys: pytest.CaptureFixture[str]) -> None:
    asked = squeue((1, "", "busy"), (1, "", "busy"), (0, "7 RUNNING\n7 PENDING\n", ""))
    assert slurm._squeue("Page-1") == [("7", "RUNNING"), ("7", "PENDING")]
    assert asked.calls == 3 and capsys.readouterr().err.count("busy") == 1


def test_jobs_know_the_command_that_submitted_them(project: Toy, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["run_pipeline.py", "Page", "--engine", "slurm", "--set", "runtime.slurm=--time=10 --qos=high"]
    seen = []

    def submit(folder: Path, name: str, work: list[slurm_job.Job], options: dict[str, Any]) -> str:
        monkeypatch.setattr(sys, "argv", ["/site/submitit/core/_submit.py", str(folder)])
        jobs.code_of(work[0])
        seen.append(command_line())
        monkeypatch.setattr(sys, "argv", typed)
        return "1"

    monkeypatch.setattr(slurm, "submit_jobs", submit)
    monkeypatch.setattr(sys, "argv", ["/checkout/" + typed[0], *typed[1:]])
    assert project.run("Page", *OPTIONS) == 0, project.err
    assert set(seen) == {"run_pipeline.py Page --engine slurm --set 'runtime.slurm=--time=10 --qos=high'"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["runtime.engine=slurm"], "needs the time limit"),
        (["runtime.slurm=time=10"], "is no option of sbatch"),
        (["runtime.slurm=--array=1-5 --time=10"], "leave it out"),
        (["runtime.slurm=--time='10"], "No closing quotation"),
        (["runtime.engine=slurm", "runtime.slurm=--time=10", "runtime.scheduler=a:1"], "leave one of them out"),
    ],
)
def test_wrong_options_are_one_line(values: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match="runtime") as error:
        load_config("shapes", overrides=values)
    assert says.lower() in str(error.value).lower() and "\n" not in str(error.value)
