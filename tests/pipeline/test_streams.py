"""Standard output and error that are closed, full, or of a terminal without UTF-8."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.toy_project import ROOT, Toy


def run_shell(project: Toy, verb: str, streams: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.toy", str(project.folder), verb, *project.arguments]
    return subprocess.run(
        ["bash", "-c", f'"$@" {streams}', "bash", *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("streams", "code"),
    [("2>&-", 0), (">&-", 0), ("<&- >&- 2>&-", 0), ("2>/dev/full", 0), (">/dev/full", 1), (">/dev/full 2>&1", 1)],
)
def test_streams_that_cannot_be_written(project: Toy, streams: str, code: int) -> None:
    done = run_shell(project, "Page", streams)
    assert done.returncode == code, done.stderr
    [page] = (project.folder / "artifacts/shapes/page").glob("*/page.html")
    if streams in ("2>&-", "2>/dev/full"):
        assert done.stdout.decode().splitlines()[-1] == str(page)
    errors = [line for line in done.stderr.decode().splitlines() if not line.startswith(tuple("NLSTP"))]
    full = ["error: cannot write to standard output: no space left on device"]
    assert errors == (full if streams == ">/dev/full" else [])


@pytest.mark.parametrize(("encoding", "branch"), [("ascii", "`- "), ("latin-1", "`- "), ("utf-8", "└─ ")])
def test_the_tree_of_status_in_every_encoding(project: Toy, encoding: str, branch: str) -> None:
    done = run_shell(project, "status", "", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and not done.stderr
    assert branch in done.stdout.decode(encoding)


def test_names_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    code = (
        "from split_matching.streams import prepare_streams; prepare_streams(); print('\\udcff ± \\u7ea2 \\U0001f600')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\xff \xb1 \\u7ea2 \\U0001f600\n"


def test_ctrl_c_while_the_project_is_imported_is_one_line(tmp_path: Path) -> None:
    """The first import of a third party is a stand-in for all."""
    (tmp_path / "pydantic.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "runs"]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
