"""A project of toy stages in a temporary folder, used through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from split_matching.pipeline.cli import main
from tests import toy

ROOT = Path(__file__).parents[2]


class Toy:
    """A toy project in a temporary folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.out: list[str] = []
        self.err: list[str] = []

    @property
    def cache(self) -> list[str]:
        return ["--artifacts", str(self.folder / "artifacts")]

    @property
    def arguments(self) -> list[str]:
        return ["--dataset", "shapes", *self.cache, "--set", "shapes.train_scenes=10", "runtime.shard_size=4"]

    def run(self, verb: str, *more: str) -> int:
        """Run the command line in this process; `diff` takes no config."""
        toy.install(self.folder)
        self.capsys.readouterr()
        code = main([*verb.split(), *(self.cache if verb.startswith("diff") else self.arguments), *more])
        captured = self.capsys.readouterr()
        self.out, self.err = captured.out.splitlines(), captured.err.splitlines()
        return code

    def start(self, verb: str, *more: str) -> subprocess.Popen[str]:
        """Start the command line in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.toy", str(self.folder), verb, *self.arguments, *more],
            cwd=ROOT,
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def log(self) -> list[str]:
        """Return what ran since the last call."""
        path = self.folder / "log.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def trouble(self, text: str) -> None:
        (self.folder / "trouble.txt").write_text(text)

    def edit(self, module: str, old: str, new: str) -> None:
        path = self.folder / "toy_stages" / f"{module}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def edit_during_run(self, module: str, old: str, new: str) -> None:
        """Let the next run of a stage that calls `edit` change a module."""
        assert old in (self.folder / "toy_stages" / f"{module}.py").read_text()
        (self.folder / "edit.json").write_text(json.dumps([f"{module}.py", old, new]))

    def ran(self) -> list[str]:
        """Return which stages the last run says that it ran."""
        return [line.split()[0] for line in self.out if " ran in " in line]

    def state_of(self, stage: str) -> str:
        """Return what the last `status` said of a stage."""
        return next(line.partition(f"{stage} ")[2].strip() for line in self.out if f"{stage} " in line)

    def total(self) -> str:
        return next((self.folder / "artifacts/shapes/total").glob("*/total.txt")).read_text()

    def newest(self, stage: str) -> Path:
        """Return the newest artifact of a toy stage, by the name of its folder."""
        found = [path for path in (self.folder / "artifacts/shapes" / stage).iterdir() if len(path.name) == 16]
        return max(found, key=lambda path: json.loads((path / "manifest.json").read_text())["created"])
