"""Tables of many runs: which variants there are, and what was measured of each under which gamma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from split_matching.stages.pages.ablation.statistics import Difference, Spread, Sweep, metrics_at, paired_difference

COMPARED = {"mIoU_seen": "S", "mIoU_unseen": "U", "hIoU": "hIoU"}
"""Metrics of which the difference to the default is shown."""

DEFAULT = "default"
"""Name of the variant that is the data set's own config."""


@dataclass(frozen=True)
class Variant:
    """What one row of a table stands for.

    Args:
        name: its name.
        file: the set file that makes it; "" for the default.
        shows: what it shows, in words.
        changes: by dotted key, the default's value and this variant's, as text.
        same_as: name of an earlier variant with the same settings, or "".
    """

    name: str
    file: str = ""
    shows: str = ""
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    same_as: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation.

    Args:
        variant: name of the variant.
        repeat: which of the variant's runs, e.g. "seed 0".
        gamma: gamma that its config sets.
        sweep: metrics at every gamma that it tried, its own among them.
    """

    variant: str
    repeat: str
    gamma: float
    sweep: Sweep


@dataclass(frozen=True)
class TableRow:
    """One variant at one gamma; `differences` is empty for the default."""

    variant: str
    gamma: float
    metrics: Mapping[str, Spread]
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class TableSection:
    """One table: all variants under one rule for gamma."""

    name: str
    title: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    """Everything that is shown about a set of runs.

    Args:
        dataset: its name.
        repeats: the runs of each variant, e.g. "seed 0"; the order of all values.
        over: what the means are over, e.g. "5 seeds".
        variants: in the order of the rows.
        sections: see `TableSection`.
        failures: (variant, repeat, message) of runs that failed.
        notes: remarks to show beside the table.
        facts: command, machine and time by name, as text; `seconds` as a number.
    """

    dataset: str
    repeats: tuple[str, ...]
    over: str
    variants: tuple[Variant, ...]
    sections: tuple[TableSection, ...]
    failures: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def build_sections(
    names: Sequence[str], repeats: Sequence[str], runs: Sequence[Evaluation], tuned: Mapping[str, float]
) -> tuple[TableSection, ...]:
    """Arrange runs as tables: not calibrated, as configured where that differs, and with the recorded gammas.

    Args:
        names: variants in order; `DEFAULT` among them.
        repeats: the runs of each variant, in order.
        runs: finished runs.
        tuned: gamma by variant, as chosen on folds of seen classes; variants without one have no row there.

    Returns:
        One to three tables.
    """
    configured = {run.variant: run.gamma for run in runs}
    rules: list[tuple[str, str, Mapping[str, float]]] = [
        ("uncalibrated", "Not calibrated (gamma = 0)", dict.fromkeys(configured, 0.0))
    ]
    if any(configured.values()) and configured != tuned:
        rules.append(("configured", "As configured", configured))
    if tuned:
        rules.append(("tuned", "Each variant with its gamma chosen on folds of seen classes", tuned))
    return tuple(TableSection(name, title, _build_rows(names, repeats, runs, gammas)) for name, title, gammas in rules)


def _build_rows(
    names: Sequence[str], repeats: Sequence[str], runs: Sequence[Evaluation], gammas: Mapping[str, float]
) -> tuple[TableRow, ...]:
    """Return the rows of the variants that have a gamma and at least one finished run."""
    sweeps = {(run.variant, run.repeat): run.sweep for run in runs}
    measured = {
        name: metrics_at([sweeps.get((name, repeat)) for repeat in repeats], gammas[name])
        for name in names
        if name in gammas and any((name, repeat) in sweeps for repeat in repeats)
    }
    base = measured.get(DEFAULT)
    rows = []
    for name, metrics in measured.items():
        differences = {}
        if name != DEFAULT and base is not None:
            differences = {key: paired_difference(metrics[key].values, base[key].values) for key in COMPARED}
        rows.append(TableRow(name, gammas[name], metrics, differences))
    return tuple(rows)
