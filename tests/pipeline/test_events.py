"""TensorBoard events of a training: names of runs, real times, and what a resumed run takes back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline.plan import Stage
from split_matching.pipeline.run.events import EventFile, run_name
from split_matching.pipeline.stages import make_plan


def training(tmp_path: Path, *overrides: str, dataset: str = "shapes") -> Stage:
    config = load_config(dataset, overrides=["clip.weights=random", f"runtime.artifacts={tmp_path}", *overrides])
    return make_plan(config)["train"]


def read(folder: Path) -> list[list[Any]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [list(EventFileLoader(str(path)).Load()) for path in sorted(folder.iterdir())]


def test_a_run_is_named_by_what_differs_and_its_key(tmp_path: Path) -> None:
    plain = training(tmp_path)
    assert run_name(plain) == plain.key[:8]
    changed = training(
        tmp_path, "train.matching=single", "train.lr=1e-3", "pseudo_masks.windows=[4, 8]", "evaluate.gamma=0.3",
        "train.log_every=7", "text.templates=['a {} / b.']",
    )  # fmt: skip
    name = run_name(changed)
    assert name.endswith(f"_{changed.key[:8]}")
    assert all(word in name for word in ("train.matching=single_", "train.lr=0.001_", "pseudo_masks.windows=_4,_8_"))
    assert not any(word in name for word in ("gamma", "log_every", "/", "\n", " ", "["))


def test_a_data_set_of_ones_own_has_no_usual_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {layout: shapes, classes: shapes}\nclip: {model: shapes-vit}\n")
    stage = training(tmp_path, "train.steps=3", dataset=str(tmp_path / "mine.yaml"))
    assert run_name(stage) == stage.key[:8]


def test_events_have_real_times_and_a_resumed_run_takes_back_later_steps(tmp_path: Path) -> None:
    stage = training(tmp_path, "train.steps=30")
    before = time.time()
    for steps in ((0, 20), (10, 20)):  # the second run goes on from a checkpoint after step 10
        with EventFile(stage) as events:
            for step in steps:
                events.add(step, {"loss": 2.5 + step, "lr": 1e-3})
    folder = tmp_path / "shapes/tensorboard" / run_name(stage)
    first, second = read(folder)
    for events, start in ((first, 0), (second, 10)):
        assert events[0].file_version == "brain.Event:2"
        assert (events[1].session_log.status, events[1].step) == (1, start)  # START: purges from this step on
        assert all(before <= event.wall_time <= time.time() for event in events)
    values = {v.tag: v.tensor.float_val[0] for v in second[-1].summary.value}
    assert second[-1].step == 20 and values == pytest.approx({"loss": 22.5, "lr": 1e-3})


def test_nothing_is_written_without_an_event_or_where_it_cannot_be(tmp_path: Path) -> None:
    with EventFile(training(tmp_path)):
        pass
    assert not (tmp_path / "shapes").exists()
    (tmp_path / "shapes").write_text("a file")
    with EventFile(training(tmp_path)) as events:
        events.add(0, {"loss": 1.0})
