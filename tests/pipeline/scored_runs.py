"""Experiments without any computation: evaluations are replaced by a function that scores a config."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from split_matching.cache import code as code_module
from split_matching.configs.schema import Config
from split_matching.pipeline.experiments import runs as experiments
from split_matching.pipeline.experiments.runs import Outcome
from split_matching.pipeline.experiments.variants import Request

Score = Callable[[Config], float | str]


@pytest.fixture(autouse=True)
def forget_code() -> None:
    """Runs keep the fingerprints of code for the life of a process; other tests are not to inherit that."""
    code_module.forget_code()


def metrics_of(hiou: float | None, gamma: float = 0.0, others: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    """Content of a `metrics.json` with a hIoU at one gamma, and hIoUs at other gammas."""
    point = {"pAcc": 90.0, "mIoU_seen": 80.0, "mIoU_unseen": 60.0}
    sweep = [{**point, "gamma": g, "hIoU": h} for g, h in [*others, (gamma, hiou)]]
    return {**point, "hIoU": hiou, "extra": {"gamma": gamma, "gamma_sweep": sweep}}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[[Score], list[Config]]:
    """`ran(score)` replaces the evaluation: hIoU is `score(config)` less the distance of gamma from 0.1; text fails.

    The list that is returned receives every config that runs.
    """

    def replace(score: Score) -> list[Config]:
        configs: list[Config] = []

        def evaluate(config: Config, debug: bool = False, label: str = "") -> Outcome:
            configs.append(config)
            found = score(config)
            if isinstance(found, str):
                return Outcome(130 if found == "interrupt" else 1, found)
            own, gammas = config.evaluate.gamma, config.evaluate.gamma_sweep
            others = [(gamma, found - abs(gamma - 0.1)) for gamma in gammas]
            return Outcome(metrics=metrics_of(found - abs(own - 0.1), own, others), seconds={"a": 1.5})

        monkeypatch.setattr(experiments, "evaluate", evaluate)
        return configs

    return replace


def request(tmp_path: Path, **more: Any) -> Request:
    overrides = ("clip.weights=random", f"runtime.artifacts={json.dumps(str(tmp_path))}")
    return Request("shapes", **{"overrides": overrides, **more})


def variant(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"# Shows {name}.\n{text}\n")
    return path


@pytest.fixture
def variants(tmp_path: Path) -> tuple[Path, ...]:
    return (
        variant(tmp_path, "no_mfe", "decoder: {mfe: none}"),
        variant(tmp_path, "single", "train: {matching: single}"),
        variant(tmp_path, "twin", "train: {matching: split}"),
    )


def by_matching(config: Config) -> float:
    return 60.0 + config.train.seed if config.train.matching == "single" else 80.0 + config.train.seed
