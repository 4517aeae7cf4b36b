"""Many runs as a table: chosen, sorted, and written as text, JSON, CSV and LaTeX."""

from __future__ import annotations

import json
import operator
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from split_matching.cache.entry import KEY_LENGTH
from split_matching.configs.strict_yaml import parse_value
from split_matching.errors import ConfigError, did_you_mean
from split_matching.pipeline.known_runs import METRICS, Run
from split_matching.pipeline.text import LONG, describe_change, format_size
from split_matching.stages.ground.durations import format_duration
from split_matching.stages.pages.text_tables import write_csv, write_latex

SHORT_KEY = 8
"""Digits of a key in a table for people: enough for millions of runs."""

WIDE = 120
"""Characters of a line from which on all that is said of a run fits on one."""

SHOWN_METRICS = {"mIoU_seen": "S", "mIoU_unseen": "U", "hIoU": "h"}
"""Metrics of a table for people: name in `metrics.json` -> heading."""

COLUMNS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: run.note.name,
    "date": lambda run: run.created,
    "dataset": lambda run: run.dataset,
    "pAcc": lambda run: run.metrics.get("pAcc"),
    "S": lambda run: run.metrics.get("mIoU_seen"),
    "U": lambda run: run.metrics.get("mIoU_unseen"),
    "h": lambda run: run.metrics.get("hIoU"),
    "seed": lambda run: run.seed,
    "time": lambda run: run.seconds,
    "size": lambda run: run.size,
}
"""What runs are sorted and chosen by, besides their settings: percent, seconds, bytes."""

ASCENDING = ("name", "dataset", "seed")
"""Columns that are sorted upwards; of the others the newest, best, longest or largest comes first."""

_CONDITION = re.compile(r"([\w.]+)\s*(>=|<=|!=|=|>|<)\s*(.*)", re.DOTALL)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    **{"=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt},
    **{"<=": operator.le, ">=": operator.ge},
}


def sort_runs(runs: Sequence[Run], column: str, reverse: bool = False) -> list[Run]:
    """Return runs by a column of `COLUMNS` or by a setting; those without a value come last.

    Raises:
        ConfigError: no such column or setting.
    """
    read = _reader(runs, column)
    known = [run for run in runs if read(run) is not None]
    down = (column in COLUMNS and column not in ASCENDING) != reverse
    known.sort(key=lambda run: _sort_key(read(run)), reverse=down)
    return known + [run for run in runs if read(run) is None]


def choose_runs(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """Return the runs for which all conditions hold.

    Args:
        runs: any.
        conditions: such as "train.seed=0", "h>80" or "name!=baseline"; `=` and `!=` take YAML.

    Raises:
        ConfigError: a condition cannot be read, or no run has what it asks for.
    """
    chosen = list(runs)
    for condition in conditions:
        holds = _parse(condition, runs)
        chosen = [run for run in chosen if holds(run)]
    return chosen


def _parse(condition: str, runs: Sequence[Run]) -> Callable[[Run], bool]:
    found = _CONDITION.fullmatch(condition.strip())
    if not found:
        raise ConfigError(f"--where {condition!r}: expected NAME=VALUE, or !=, <, >, <=, >=; such as 'h>80'")
    name, sign, text = found.groups()
    read, compare, number = _reader(runs, name), _SIGNS[sign], _number(text)
    wanted = parse_value(text) if number is None else number

    def holds(run: Run) -> bool:
        value = read(run)
        if sign in ("=", "!="):
            return compare(value if value == wanted else str(value), wanted if value == wanted else text)
        if value is None:
            return False
        if isinstance(value, str):  # a time: its order is that of its text
            return compare(value, text)
        if number is None or not isinstance(value, int | float):
            what = f"expected a number after {sign}" if number is None else f"{name} is {value!r}, no number"
            raise ConfigError(f"--where {condition!r}: {what}")
        return compare(value, number)

    return holds


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _reader(runs: Sequence[Run], name: str) -> Callable[[Run], Any]:
    """Return what gives the value of a column or setting.

    Raises:
        ConfigError: there is no such column, and no run has such a setting.
    """
    if name in COLUMNS:
        return COLUMNS[name]
    settings = {setting for run in runs for setting in run.settings}
    if runs and name not in settings:
        hint = did_you_mean(name, [*COLUMNS, *sorted(settings)])
        raise ConfigError(
            f"no run has {name!r}: {hint or 'expected a setting such as train.steps, or ' + ', '.join(COLUMNS)}"
        )
    return lambda run: run.settings.get(name)


def _sort_key(value: Any) -> tuple[int, Any]:
    """Return a key by which numbers come before text, and both are sorted among themselves."""
    return (0, value) if isinstance(value, int | float) else (1, describe_value(value))


def shared_differences(runs: Sequence[Run]) -> list[str]:
    """Return what is not as usual in the same way in all of several runs; it need not be said of each."""
    if len(runs) < 2:
        return []
    first, *others = [list_differences(run) for run in runs]
    return [text for text in first if all(text in other for other in others)]


def list_differences(run: Run, without: Sequence[str] = ()) -> list[str]:
    """Return what is not as usual in a run: "train.steps=300", "decoder.mfe=none"; empty for nothing.

    Args:
        run: any.
        without: what is said elsewhere, see `shared_differences`.
    """
    found = [describe_difference(name, *values) for name, values in sorted(run.differs.items())]
    return [text for text in found if text not in without]


def describe_difference(name: str, before: Any, after: Any) -> str:
    """Return a setting that is not as usual: its value; of a long list what is missing and what is new."""
    if isinstance(before, list) and isinstance(after, list) and max(len(before), len(after)) > LONG:
        return f"{name} {describe_change(before, after)}"
    return f"{name}={describe_value(after)}"


def describe_value(value: Any) -> str:
    """Return a setting as text; digests of files are shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", text)


# --- forms ------------------------------------------------------------------------------------------------------------


def to_text(runs: Sequence[Run], width: int) -> str:
    """Return a table for a terminal; where lines are short, names and differences are below, not beside.

    Args:
        runs: in the order of the lines.
        width: of a line, in characters.
    """
    beside = width >= WIDE
    day = 16 if beside else 10  # with the minute, or the day alone
    headings = ["key", "made (UTC)", "data set", *SHOWN_METRICS.values(), "seed", "time", "size"]
    rows = [
        [
            run.key[:SHORT_KEY],
            run.created[:day].replace("T", " "),
            run.dataset,
            *(_percent(run.metrics.get(name)) for name in SHOWN_METRICS),
            "" if run.seed is None else str(run.seed),
            format_duration(run.seconds),
            format_size(run.size),
        ]
        for run in runs
    ]
    head, *lines = _align([headings, *rows], left=3)
    if beside:
        head += "  differs in"
    found, shared = [head], shared_differences(runs)
    for run, line in zip(runs, lines, strict=True):
        what = ": ".join(part for part in (run.note.name, ", ".join(list_differences(run, shared))) if part)
        if beside:
            found.append(f"{line}  {what}".rstrip())
        else:
            found += [line, *textwrap.wrap(what, width, initial_indent="  ", subsequent_indent="  ")]
    if shared:
        found += textwrap.wrap(f"all differ in: {', '.join(shared)}", width)
    return "\n".join(found)


def _align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return rows as lines with aligned columns; the first `left` ones to the left, the others to the right."""
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(size) if place < left else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(row, sizes, strict=True))
        )
        for row in rows
    ]


def to_json(runs: Sequence[Run]) -> str:
    """Return a list of objects, with all settings, unrounded."""
    return json.dumps(
        [
            {
                "key": run.key,
                "stage": run.artifact.manifest["stage"],
                "name": run.note.name,
                "note": run.note.text,
                "created": run.created,
                "dataset": run.dataset,
                "metrics": run.metrics,
                "seed": run.seed,
                "seconds": round(run.seconds, 3),
                "bytes": run.size,
                "differs": {name: after for name, (_, after) in run.differs.items()},
                "settings": run.settings,
                "commit": run.artifact.manifest.get("commit"),
                "command": run.artifact.manifest.get("command"),
                "path": str(run.artifact.path),
                "report": str(run.report) if run.report else None,
            }
            for run in runs
        ],
        indent=1,
        ensure_ascii=False,
    )


def to_csv(runs: Sequence[Run]) -> str:
    """Return a line for each run, unrounded; empty where undefined."""
    head = ["key", "name", "note", "date", "dataset", *METRICS, "seed", "seconds", "bytes", "differs"]
    rows = [
        [
            *(run.key, run.note.name, run.note.text, run.created, run.dataset),
            *(run.metrics.get(name) for name in METRICS),
            *(run.seed, round(run.seconds, 3), run.size, ", ".join(list_differences(run))),
        ]
        for run in runs
    ]
    return write_csv(head, rows).rstrip("\n")


def to_latex(runs: Sequence[Run]) -> str:
    """Return a table of results for a paper; needs the package booktabs."""
    shared = shared_differences(runs)
    names = [run.note.name or ", ".join(list_differences(run, shared)) or run.key[:KEY_LENGTH] for run in runs]
    rows = [
        [name, run.dataset, *(_percent(run.metrics.get(metric)) for metric in METRICS)]
        for name, run in zip(names, runs, strict=True)
    ]
    return write_latex("llrrrr", ["run", "data set", "pAcc", "mIoU S", "mIoU U", "hIoU"], rows).rstrip("\n")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
