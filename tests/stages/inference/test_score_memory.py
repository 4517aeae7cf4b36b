"""Memory of class scores, and who may score at the same time."""

from __future__ import annotations

import pytest

from split_matching.configs.load import load_config
from split_matching.stages.inference.predictors.decoder import scoring_lock
from split_matching.stages.inference.score_memory import score_bytes


def test_scores_of_sliding_windows_are_counted() -> None:
    slide = load_config("coco_stuff", overrides=["evaluate.mode=slide", "evaluate.short_side=512"])
    assert score_bytes(slide, (480, 640), 171) == pytest.approx(4 * 171 * 512 * 682.67, rel=1e-3)  # 240 MB
    assert score_bytes(slide, (240, 320), 171) == score_bytes(slide, (480, 640), 171)
    long = load_config(
        "coco_stuff",
        overrides=["evaluate.mode=slide", "evaluate.short_side=null", "features.size=320", "features.resize=long"],
    )
    assert score_bytes(long, (480, 640), 10) == 4 * 10 * 240 * 320
    whole = load_config("coco_stuff", overrides=["evaluate.mode=whole"])
    assert score_bytes(whole, (480, 640), 171) == 4 * 171 * 480 * 640
    dense = load_config("coco_stuff", overrides=["evaluate.predictor=dense"])
    assert score_bytes(dense, (480, 640), 171) == 0


def test_one_thread_scores_on_a_gpu_and_all_on_a_cpu() -> None:
    free, one = scoring_lock("cpu"), scoring_lock("cuda:0")
    with free, free:
        pass
    with one:
        assert not one.acquire(blocking=False)  # type: ignore[attr-defined]
