"""Tables of many runs: means over seeds, paired differences, the choice of gamma, and their text forms.

Plain functions on numbers: nothing here knows how the runs were made. A deviation is the sample deviation (n - 1) over
seeds. Two variants are compared seed by seed, because runs of one seed share their initial weights and the order of
their images: the deviation of the difference is then smaller than that of either. A number that is undefined in a run
(NaN: no class of a group occurs) is left out of means, and a pair with one such number is left out of differences.

Source: choice.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

METRICS = {"pAcc": "pAcc", "mIoU_seen": "mIoU S", "mIoU_unseen": "mIoU U", "hIoU": "hIoU"}
"""Columns of every table: name in `metrics.json` -> heading. In percent."""

COMPARED = {"mIoU_seen": "S", "mIoU_unseen": "U", "hIoU": "hIoU"}
"""Metrics of which the difference to the default is shown."""

DEFAULT = "default"
"""Name of the variant that is the data set's own config."""

UNDEFINED = "\N{EN DASH}"

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
    """A variant minus the default, paired by seed.

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
class Run:
    """One finished evaluation.

    Args:
        variant: name of the variant.
        seed: seed of its training.
        gamma: gamma that its config sets.
        sweep: metrics at every gamma that it tried, its own among them.
    """

    variant: str
    seed: int
    gamma: float
    sweep: Sweep


@dataclass(frozen=True)
class Row:
    """One variant at one gamma; `differences` is empty for the default."""

    variant: str
    gamma: float
    metrics: Mapping[str, Spread]
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Section:
    """One table: all variants under one rule for gamma."""

    name: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """Everything that is shown about a set of runs.

    Args:
        dataset: its name.
        seeds: seeds of training, the order of all per-seed values.
        variants: in the order of the rows.
        sections: see `Section`.
        failures: (variant, seed, message) of runs that failed.
        notes: remarks to show beside the table.
        facts: command, machine and time by name, as text; `seconds` as a number.
    """

    dataset: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    sections: tuple[Section, ...]
    failures: tuple[tuple[str, int, str], ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample deviation of what is defined."""
    known = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    mean = float(known.mean()) if len(known) else math.nan
    deviation = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Spread(tuple(float(value) for value in values), mean, deviation, len(known))


def paired_difference(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Compare two variants seed by seed.

    Args:
        values: (n,) of the variant, NaN where undefined or missing.
        base: (n,) of the default, same seeds in the same order.

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


def build_sections(
    names: Sequence[str], seeds: Sequence[int], runs: Sequence[Run], tuned: Mapping[str, float]
) -> tuple[Section, ...]:
    """Arrange runs as tables: not calibrated, as configured where that differs, and with the recorded gammas.

    Args:
        names: variants in order; `DEFAULT` among them.
        seeds: seeds in order.
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
    return tuple(Section(name, title, _rows(names, seeds, runs, gammas)) for name, title, gammas in rules)


def _rows(
    names: Sequence[str], seeds: Sequence[int], runs: Sequence[Run], gammas: Mapping[str, float]
) -> tuple[Row, ...]:
    sweeps = {(run.variant, run.seed): run.sweep for run in runs}
    measured = {
        name: metrics_at([sweeps.get((name, seed)) for seed in seeds], gammas[name])
        for name in names
        if name in gammas and any((name, seed) in sweeps for seed in seeds)
    }
    base = measured.get(DEFAULT)
    return tuple(
        Row(
            name,
            gammas[name],
            metrics,
            {}
            if name == DEFAULT or base is None
            else {key: paired_difference(metrics[key].values, base[key].values) for key in COMPARED},
        )
        for name, metrics in measured.items()
    )


# --- text forms -------------------------------------------------------------------------------------------------------


def format_spread(value: Spread) -> str:
    """Return `87.1 ± 0.4`, without a deviation where there is none."""
    return _with_deviation(f"{value.mean:.1f}" if value.count else UNDEFINED, value.deviation)


def format_difference(value: Difference | None) -> str:
    """Return `+1.2 ± 0.4 (5/5)`: mean, deviation, and in how many seeds the sign is that of the mean."""
    if value is None or not value.count:
        return UNDEFINED
    return f"{_with_deviation(f'{value.mean:+.1f}', value.deviation)} ({value.agree}/{value.count})"


def _with_deviation(mean: str, deviation: float) -> str:
    return f"{mean} ± {deviation:.1f}" if math.isfinite(deviation) else mean


def headings(section: Section) -> list[str]:
    """Return the column headings of a table's text forms."""
    gamma = ["gamma"] if shows_gamma(section) else []
    return ["variant", *gamma, *METRICS.values(), *(f"Δ {word}" for word in COMPARED.values())]


def cells(section: Section, row: Row) -> list[str]:
    """Return one row of a table's text forms, one cell a heading."""
    gamma = [f"{row.gamma:g}"] if shows_gamma(section) else []
    metrics = [format_spread(row.metrics[key]) for key in METRICS]
    differences = [format_difference(row.differences.get(key)) for key in COMPARED]
    return [row.variant, *gamma, *metrics, *differences]


def shows_gamma(section: Section) -> bool:
    """Whether gamma differs from row to row, so that it is a column."""
    return section.name != "uncalibrated"


def to_markdown(table: Table) -> str:
    """Return the tables, what each variant is, and how they were made, as Markdown."""
    lines: list[str] = []
    for section in table.sections:
        lines += [f"**{section.title}**", "", _markdown_line(headings(section))]
        aligned = ["---", *["---:"] * (len(headings(section)) - 1)]
        lines += [_markdown_line(aligned), *(_markdown_line(cells(section, row)) for row in section.rows), ""]
    lines += [_explanation(table), ""]
    lines += [f"- `{variant.name}`: {_described(variant)}" for variant in table.variants]
    lines += [f"- failed: `{name}` seed {seed}: {message}" for name, seed, message in table.failures]
    lines += [f"- note: {note}" for note in table.notes]
    facts = [f"{name}: `{value}`" if name == "command" else f"{name}: {value}" for name, value in shown_facts(table)]
    return "\n".join([*lines, "", "; ".join(facts)]).rstrip() + "\n"


def _markdown_line(values: Sequence[str]) -> str:
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


def _explanation(table: Table) -> str:
    seeds = f"{len(table.seeds)} seed{'' if len(table.seeds) == 1 else 's'}"
    return (
        f"In percent on the validation split of {table.dataset}: mean ± sample deviation over {seeds}. Δ is the "
        f"difference to `{DEFAULT}`, paired by seed; in brackets, in how many seeds it has the sign of the mean."
    )


def _described(variant: Variant) -> str:
    words = variant.shows or ("the data set's own config" if variant.name == DEFAULT else variant.file)
    if variant.same_as:
        return f"{words} (the same settings as `{variant.same_as}`)"
    changes = [f"{key}: {before} -> {after}" for key, (before, after) in variant.changes.items()]
    return f"{words} ({', '.join(changes)})" if changes else words


def shown_facts(table: Table) -> list[tuple[str, Any]]:
    """Return the facts that are text, in order."""
    return [(name, value) for name, value in table.facts.items() if isinstance(value, str) and value]


def to_csv(table: Table) -> str:
    """Return one line for every variant of every table, unrounded; empty where undefined."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = [f"{key}_{part}" for key in METRICS for part in ("mean", "deviation", "runs")]
    head += [f"{key}_difference_{part}" for key in COMPARED for part in ("mean", "deviation", "pairs", "agree")]
    writer.writerow(["table", "variant", "gamma", *head])
    for section in table.sections:
        for row in section.rows:
            values: list[float | None] = []
            for key in METRICS:
                found = row.metrics[key]
                values += [_defined(found.mean), _defined(found.deviation), found.count]
            for key in COMPARED:
                pair = row.differences.get(key)
                values += (
                    [None] * 4
                    if pair is None
                    else [_defined(pair.mean), _defined(pair.deviation), pair.count, pair.agree]
                )
            writer.writerow([section.name, row.variant, row.gamma, *values])
    return stream.getvalue()


def to_json(value: Any) -> Any:
    """Return plain JSON values of a table or anything in it: dataclasses as objects, NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return _defined(value) if isinstance(value, float) else value


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
