"""Numbers of several runs: means over runs, paired differences, and the choice of gamma.

Plain functions on numbers: nothing here knows how the runs were made. A deviation is the sample deviation (n - 1) over
runs. Two variants are compared run by run, because two runs of one seed share their initial weights and the order of
their images: the deviation of the difference is then smaller than that of either. A number that is undefined in a run
(NaN: no class of a group occurs) is left out of means, and a pair with one such number is left out of differences.

Source: choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

METRICS = {"pAcc": "pAcc", "mIoU_seen": "mIoU S", "mIoU_unseen": "mIoU U", "hIoU": "hIoU"}
"""Columns of every table: name in `metrics.json` -> heading. In percent."""

Sweep = Mapping[float, Mapping[str, float]]
"""Metrics in percent by gamma; NaN where undefined."""


@dataclass(frozen=True)
class Spread:
    """Values of several runs.

    Args:
        values: one a run, NaN where undefined.
        mean: over the defined ones; NaN if there is none.
        deviation: sample deviation; NaN for fewer than two.
        count: number of defined values.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Difference:
    """A variant minus the default, paired by run.

    Args:
        mean: mean of the differences; NaN without a pair.
        deviation: their sample deviation; NaN for fewer than two pairs.
        count: number of pairs.
        agree: pairs whose difference has the sign of the mean.
    """

    mean: float
    deviation: float
    count: int
    agree: int


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample deviation of what is defined."""
    known = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    mean = float(known.mean()) if len(known) else math.nan
    deviation = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Spread(tuple(float(value) for value in values), mean, deviation, len(known))


def paired_difference(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Compare two variants run by run.

    Args:
        values: (n,) of the variant, NaN where undefined or missing.
        base: (n,) of the default, same runs in the same order.

    Returns:
        `values - base` over the pairs of which both are defined.

    Raises:
        ValueError: the lengths differ.
    """
    if len(values) != len(base):
        raise ValueError(f"{len(values)} values cannot be paired with {len(base)}")
    differences = np.asarray(values, np.float64) - np.asarray(base, np.float64)
    result = spread(differences.tolist())
    known = differences[np.isfinite(differences)]
    agree = int((np.sign(known) == np.sign(result.mean)).sum())
    return Difference(result.mean, result.deviation, result.count, agree)


def read_sweep(metrics: Mapping[str, Any]) -> dict[float, dict[str, float]]:
    """Return the metrics at every gamma that one evaluation tried.

    Args:
        metrics: content of `metrics.json`.

    Returns:
        Metrics in percent by gamma, ascending; null becomes NaN. The configured gamma is among them.
    """
    extra = metrics.get("extra", {})
    points = [*extra.get("gamma_sweep", ()), {**metrics, "gamma": extra.get("gamma", 0.0)}]
    sweep = {float(p["gamma"]): {key: math.nan if p[key] is None else float(p[key]) for key in METRICS} for p in points}
    return dict(sorted(sweep.items()))


def choose_gamma(sweeps: Sequence[Sweep]) -> float | None:
    """Choose gamma by the mean sweep of several runs: the one with the highest mean hIoU.

    A gamma counts only if every run tried it. Where hIoU is undefined in some runs, a gamma at which it is defined in
    more runs comes first: means over different runs do not compare. Among equals the smallest wins.

    Args:
        sweeps: one a run.

    Returns:
        The gamma, or None if hIoU is defined nowhere or there is no run.
    """
    if not sweeps:
        return None
    tried = sorted(set(sweeps[0]).intersection(*sweeps))
    best: tuple[tuple[int, float], float] | None = None
    for gamma in tried:
        found = spread([sweep[gamma]["hIoU"] for sweep in sweeps])
        rank = (found.count, found.mean)
        if found.count and (best is None or rank > best[0]):
            best = (rank, gamma)
    return best[1] if best else None


def metrics_at(sweeps: Sequence[Sweep | None], gamma: float) -> dict[str, Spread]:
    """Return every metric over several runs at one gamma; a run that is missing or did not try it counts as undefined.

    Args:
        sweeps: one a run, None for a run that failed.
        gamma: the gamma.
    """
    points = [sweep.get(gamma) if sweep is not None else None for sweep in sweeps]
    return {key: spread([math.nan if point is None else point[key] for point in points]) for key in METRICS}
