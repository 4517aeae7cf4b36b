"""`import split_matching as sm`: one entry for configs and runs; importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import split_matching as sm
from split_matching.errors import ConfigError, DataError
from split_matching.pipeline.trained_run import load_segmenter

NAMES = ["white checked", "purple plain", "blue striped"]


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, split_matching as sm; dir(sm); print([n for n in sys.modules if n.startswith('split_match')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['split_matching']\n", done.stderr


def test_it_offers_what_it_names() -> None:
    assert {"TrainedRun", "config", "load_run", "runs"} <= set(dir(sm))
    assert sm.config("voc", ["train.steps=7"]).train.steps == 7
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = sm.load_runs


@pytest.fixture(scope="module")
def run(tiny_run: list[str]) -> sm.TrainedRun:
    return sm.load_run("shapes", tiny_run[1], tiny_run[3:])


@pytest.mark.slow
def test_a_run_is_found_by_its_config_and_by_its_key(run: sm.TrainedRun, tiny_run: list[str]) -> None:
    assert run.artifact.stage == "evaluate" and run.metrics["pAcc"] >= 0
    assert sm.load_run(run.key[:12], tiny_run[1]).key == run.key
    assert run.key in [other.key for other in sm.runs(tiny_run[1])]
    with pytest.raises(ConfigError, match="is no config: overrides are for those alone"):
        sm.load_run(run.key[:12], tiny_run[1], ["train.steps=1"])


@pytest.mark.slow
def test_a_config_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the run of shapes in .* is missing.*: run `.* Evaluate --dataset shapes"):
        sm.load_run("shapes", tmp_path)


@pytest.mark.slow
def test_a_prediction_has_labels_scores_and_regions(run: sm.TrainedRun, tiny_run: list[str]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    found = run.predict(image, NAMES)
    segmenter = load_segmenter("shapes", [f"runtime.artifacts={tiny_run[1]}", *tiny_run[3:]])
    assert np.array_equal(found.labels, segmenter.predict(image, NAMES).labels)
    assert found.scores.shape[0] == 3 and found.scores.dtype == np.float32 and np.isfinite(found.scores).all()
    assert sum(region.pixels for region in found.regions) == 40 * 60
    for region in found.regions:
        assert np.array_equal(region.mask, found.labels == NAMES.index(region.name))
        assert region.pixels == region.mask.sum() and found.scores.min() <= region.score <= found.scores.max()
    assert [region.pixels for region in found.regions] == sorted(found.pixels(), reverse=True)[: len(found.regions)]


@pytest.mark.slow
def test_what_the_cache_holds_of_an_image(run: sm.TrainedRun) -> None:
    assert run.image_ids() == tuple(f"train_{n:06d}" for n in range(4)) and len(run.image_ids("val")) == 2
    labels, dense = run.pseudo_masks("train_000001"), run.features("train_000001")
    assert labels.dtype == np.uint8 and labels.ndim == 2 and dense.ndim == 3 and dense.dtype == np.float16
    assert np.array_equal(labels, run.artifacts["pseudo_masks"].shards("train").read("train_000001", "labels"))
    assert run.features("val_000000", "tokens_2", "val").shape[:2] == dense.shape[:2]
    with pytest.raises(DataError, match=r"no image 'train_1' among the 4 images of pseudo_masks"):
        run.pseudo_masks("train_1")
    with pytest.raises(DataError, match="there is no 'tokens_9' among the features: expected one of cls, dense"):
        run.features("train_000001", "tokens_9")
    with pytest.raises(DataError, match="was made without features of test images"):
        run.features("train_000001", split="test")
