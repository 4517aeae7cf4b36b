"""Images that are scored at the same time: their scores fit into a room."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from split_matching.configs.load import load_config
from split_matching.stages.inference.predictors.decoder import scoring_lock
from split_matching.stages.inference.score_memory import Room, score_bytes


@pytest.mark.parametrize(("size", "most"), [(100, 1), (40, 2), (1000, 1), (0, 8)])
def test_no_more_are_in_the_room_than_fit_and_at_least_one(size: int, most: int) -> None:
    room, lock, inside, seen = Room(100), threading.Lock(), 0, []
    together = threading.Barrier(most)

    def work(_: int) -> None:
        nonlocal inside
        with room.take(size):
            with lock:
                inside += 1
                seen.append(inside)
            together.wait(timeout=10)  # as many as fit are in it at the same time
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(seen) == most and inside == 0


def test_an_error_gives_the_room_back() -> None:
    room = Room(10)
    with pytest.raises(ValueError, match="broken"), room.take(10):
        raise ValueError("broken")
    with room.take(10):
        pass


def test_scores_of_sliding_windows_are_counted() -> None:
    slide = load_config("coco_stuff", overrides=["evaluate.mode=slide", "evaluate.short_side=512"])
    assert score_bytes(slide, (480, 640), 171) == pytest.approx(4 * 171 * 512 * 682.67, rel=1e-3)  # 240 MB
    assert score_bytes(slide, (240, 320), 171) == score_bytes(slide, (480, 640), 171)
    long = load_config(
        "coco_stuff",
        overrides=["evaluate.mode=slide", "evaluate.short_side=null", "features.size=320", "features.resize=long"],
    )
    assert score_bytes(long, (480, 640), 10) == 4 * 10 * 240 * 320
    assert score_bytes(load_config("coco_stuff", overrides=["evaluate.mode=whole"]), (480, 640), 171) == 0


def test_one_thread_scores_on_a_gpu_and_all_on_a_cpu() -> None:
    free, one = scoring_lock("cpu"), scoring_lock("cuda:0")
    with free, free:
        pass
    with one:
        assert not one.acquire(blocking=False)  # type: ignore[attr-defined]
