"""Tables of many runs as Markdown, CSV and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from split_matching.stages.pages.ablation.statistics import METRICS, Difference, Spread
from split_matching.stages.pages.ablation.tables import COMPARED, DEFAULT, Table, TableRow, TableSection, Variant
from split_matching.stages.pages.formats import UNDEFINED
from split_matching.stages.pages.text_tables import write_csv


def format_spread(value: Spread) -> str:
    """Return `87.1 ± 0.4`, without a deviation where there is none."""
    return _add_deviation(f"{value.mean:.1f}" if value.count else UNDEFINED, value.deviation)


def format_difference(value: Difference | None) -> str:
    """Return `+1.2 ± 0.4 (5/5)`: mean, deviation, and in how many runs the sign is that of the mean."""
    if value is None or not value.count:
        return UNDEFINED
    return f"{_add_deviation(f'{value.mean:+.1f}', value.deviation)} ({value.agree}/{value.count})"


def _add_deviation(mean: str, deviation: float) -> str:
    return f"{mean} ± {deviation:.1f}" if math.isfinite(deviation) else mean


def headings(section: TableSection) -> list[str]:
    """Return the column headings of a table's text forms."""
    gamma = ["gamma"] if has_gamma_column(section) else []
    return ["variant", *gamma, *METRICS.values(), *(f"Δ {word}" for word in COMPARED.values())]


def cells(section: TableSection, row: TableRow) -> list[str]:
    """Return one row of a table's text forms, one cell a heading."""
    gamma = [f"{row.gamma:g}"] if has_gamma_column(section) else []
    metrics = [format_spread(row.metrics[key]) for key in METRICS]
    differences = [format_difference(row.differences.get(key)) for key in COMPARED]
    return [row.variant, *gamma, *metrics, *differences]


def has_gamma_column(section: TableSection) -> bool:
    """Whether gamma differs from row to row, so that it is a column."""
    return section.name != "uncalibrated"


def to_markdown(table: Table) -> str:
    """Return the tables, what each variant is, and how they were made, as Markdown."""
    lines: list[str] = []
    for section in table.sections:
        lines += [f"**{section.title}**", "", _join_cells(headings(section))]
        aligned = ["---", *["---:"] * (len(headings(section)) - 1)]
        lines += [_join_cells(aligned), *(_join_cells(cells(section, row)) for row in section.rows), ""]
    lines += [_explain(table), ""]
    lines += [f"- `{variant.name}`: {_describe(variant)}" for variant in table.variants]
    lines += [f"- failed: `{name}`, {repeat}: {message}" for name, repeat, message in table.failures]
    lines += [f"- note: {note}" for note in table.notes]
    facts = [f"{name}: `{value}`" if name == "command" else f"{name}: {value}" for name, value in text_facts(table)]
    return "\n".join([*lines, "", "; ".join(facts)]).rstrip() + "\n"


def _join_cells(values: Sequence[str]) -> str:
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


def _explain(table: Table) -> str:
    return (
        f"In percent on the validation split of {table.dataset}: mean ± sample deviation over {table.over}. Δ is the "
        f"difference to `{DEFAULT}`, paired by run; in brackets, in how many runs it has the sign of the mean."
    )


def _describe(variant: Variant) -> str:
    words = variant.shows or ("the data set's own config" if variant.name == DEFAULT else variant.file)
    if variant.same_as:
        return f"{words} (the same settings as `{variant.same_as}`)"
    changes = [f"{key}: {before} -> {after}" for key, (before, after) in variant.changes.items()]
    return f"{words} ({', '.join(changes)})" if changes else words


def text_facts(table: Table) -> list[tuple[str, Any]]:
    """Return the facts that are text, in order."""
    return [(name, value) for name, value in table.facts.items() if isinstance(value, str) and value]


def to_csv(table: Table) -> str:
    """Return one line for every variant of every table, unrounded; empty where undefined."""
    head = [f"{key}_{part}" for key in METRICS for part in ("mean", "deviation", "runs")]
    head += [f"{key}_difference_{part}" for key in COMPARED for part in ("mean", "deviation", "pairs", "agree")]
    rows = [
        [section.name, row.variant, row.gamma, *_numbers(row)] for section in table.sections for row in section.rows
    ]
    return write_csv(["table", "variant", "gamma", *head], rows)


def _numbers(row: TableRow) -> list[float | None]:
    values: list[float | None] = []
    for key in METRICS:
        found = row.metrics[key]
        values += [found.mean, found.deviation, found.count]
    for key in COMPARED:
        pair = row.differences.get(key)
        values += [None] * 4 if pair is None else [pair.mean, pair.deviation, pair.count, pair.agree]
    return values


def to_json(value: Any) -> Any:
    """Return plain JSON values of a table or anything in it: dataclasses as objects, NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return _finite_or_none(value) if isinstance(value, float) else value


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
