"""Fixtures of the pipeline's tests: a toy project."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache import code as code_module
from split_matching.pipeline import stages
from tests import toy
from tests.pipeline.toy_project import Toy


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Toy]:
    monkeypatch.setenv("TOY_FOLDER", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(stages, "STAGES", stages.STAGES)
    monkeypatch.setattr(code_module, "module_closure", code_module.module_closure)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    toy.write_modules(tmp_path)
    yield Toy(tmp_path, capsys)
    code_module.forget_code()


@pytest.fixture
def status(project: Toy) -> Callable[..., dict[str, Any]]:
    """Stages by name, as `status --json` tells of them."""

    def ask(*more: str) -> dict[str, Any]:
        assert project.run("status", "--json", *more) == 0
        return {stage["stage"]: stage for stage in json.loads("\n".join(project.out))["stages"]}

    return ask
