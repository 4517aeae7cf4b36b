"""Settings that are allowed, but hardly meant: one line before the stage runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline.run.launch import _warn
from split_matching.pipeline.stages import make_plan


@pytest.mark.parametrize(("warmup", "steps", "fresh", "warned"), [(5, 4, False, 1), (4, 4, False, 0), (5, 4, True, 0)])
def test_a_warm_up_that_never_ends(warmup: int, steps: int, fresh: bool, warned: int) -> None:
    plan = make_plan(load_config("shapes", overrides=[f"train.warmup={warmup}", f"train.steps={steps}"]))
    said: list[str] = []
    display = SimpleNamespace(say=said.append)
    _warn(plan["train"], {"train": SimpleNamespace(fresh=fresh)}, display)  # type: ignore[arg-type, dict-item]
    _warn(plan["text"], {"text": SimpleNamespace(fresh=False)}, display)  # type: ignore[arg-type, dict-item]
    assert len(said) == warned
    assert all("train.warmup 5 is more than train.steps 4" in line and "\n" not in line for line in said)
