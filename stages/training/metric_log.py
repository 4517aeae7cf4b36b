"""Metrics of a training as JSON lines, and the same with the speed for whoever watches it.

The same run gives the same lines. What is only true of this run of it, its speed, goes to `ctx.report` alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from split_matching.configs.settings import TrainConfig
from split_matching.stages.ground.context import StageContext

METRICS = "metrics.jsonl"
MATCHING = "matching.jsonl"
VALIDATION = "validation.jsonl"


class MetricLog:
    """The log of a training stage; a context manager.

    `metrics.jsonl` has loss terms, learning rate and gradient norm; `matching.jsonl` how queries were matched, with
    how often each query found a target; `validation.jsonl` the mIoU on held-out images, if there are any.

    Args:
        ctx: of the stage; `report` is told the same numbers, `out` is where the files are written.
        start: first step of this run; 0 begins new logs, any other continues those that `restore_checkpoint` left.
    """

    def __init__(self, ctx: StageContext, start: int) -> None:
        self._config: TrainConfig = ctx.config.train
        self._report = ctx.report
        names = (METRICS, MATCHING, *([VALIDATION] if self._config.validate_every else []))
        self._streams = {name: (ctx.out / name).open("a" if start else "w", encoding="utf-8") for name in names}
        self._told = start, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()

    def add(self, step: int, metrics: Mapping[str, float], matching: Mapping[str, float | list[int]]) -> None:
        """Write what was measured at one step."""
        self._write(METRICS, step, metrics)
        self._write(MATCHING, step, matching)
        before, then = self._told
        self._told = step + 1, time.monotonic()
        speed = (step + 1 - before) * self._config.batch / max(self._told[1] - then, 1e-9)
        parts = weigh_parts(metrics, self._config)
        scalars = {name: value for name, value in matching.items() if not isinstance(value, list)}
        self._report(step, {"images/s": speed, "lr": metrics["lr"], **parts, **metrics, **scalars})

    def add_validation(self, done: int, miou: float) -> None:
        """Write the mIoU, 0 to 1, of the seen classes on held-out images after some steps; it is logged in percent."""
        values = {"held_out_mIoU": round(100 * miou, 4)}
        self._write(VALIDATION, done, values)
        self._report(done, values)

    def _write(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        self._streams[name].write(json.dumps({"step": step, **values}) + "\n")
        self._streams[name].flush()


def weigh_parts(metrics: Mapping[str, float], config: TrainConfig) -> dict[str, float]:
    """Return the loss and its two parts, which add up to it: that of the seen group and that of pseudo masks."""
    if not all(name in metrics for name in ("loss", "seen_class", "seen_mask", "seen_dice")):
        return {}  # a term was not finite
    terms = (("seen_class", config.loss_class), ("seen_mask", config.loss_mask), ("seen_dice", config.loss_dice))
    seen = sum(weight * metrics[name] for name, weight in terms)
    return {"loss": metrics["loss"], "seen": seen, "pseudo": metrics["loss"] - seen}
