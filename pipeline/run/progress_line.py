"""One line about a stage that runs: in words for a log, with a bar and colours for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from split_matching.pipeline.terminal import console_of
from split_matching.stages.ground.durations import format_duration

if TYPE_CHECKING:
    from rich.text import Text

SPEED = "images/s"  # where it is noted it takes the place of the stage's own unit
BAR = 30  # widest bar
SHORTEST_BAR = 8

Row = tuple[str, str, int, int, float, Mapping[str, float]]
"""Name of a stage, its unit, how much is done, of how much, how much in a second, and what it measured."""


def describe_line(name: str, unit: str, done: int, total: int, rate: float, numbers: Mapping[str, float]) -> str:
    """Return the line for a log."""
    share = f" ({100 * done // total} %)" if total else ""
    left = f", {format_duration((total - done) / rate)} left" if rate and total > done else ""
    more = "".join(f", {key} {value:.4g}" for key, value in numbers.items() if key != SPEED)
    return f"{name}: {done}/{total}{share}, {_speed(unit, rate, numbers)}{left}{more}"


def draw_lines(rows: Sequence[Row], stream: TextIO) -> str:
    """Return lines for a terminal, without a newline at the end; each fits its width."""
    if not rows:
        return ""
    console = console_of(stream)
    room = console.width - 1  # a terminal may wrap at its last column
    longest = max(len(row[0]) for row in rows)
    with console.capture() as captured:
        console.print(*(_draw_line(row, longest, room) for row in rows), sep="\n", end="", no_wrap=True, crop=False)
    return captured.get()


def _draw_line(row: Row, longest: int, room: int) -> Text:
    """A name, a bar where there is room, the share, the time left, the speed, and as many numbers as fit."""
    from rich.text import Text

    name, unit, done, total, rate, numbers = row
    # without blanks: the parts of the loss then fit 80 columns
    left = f"{format_duration((total - done) / rate).replace(' ', '')} left" if rate and total > done else ""
    parts = [f"{100 * done // total}%", left, _speed(unit, rate, numbers).replace("images", "img")]
    parts += [f"{key} {_short(value)}" for key, value in numbers.items() if key != SPEED]
    line = Text(f"{name:<{longest}}", style="bold")
    used, chosen = longest, []
    for part in filter(None, parts):
        if used + 1 + len(part) > room:
            break
        chosen.append(part)
        used += 1 + len(part)
    width = min(BAR, room - used - 1)
    if width >= SHORTEST_BAR:
        full = width * done // total
        line.append(" ").append("━" * full, "green").append("─" * (width - full), "dim")
    for part in chosen:
        key, _, value = part.partition(" ")
        line.append(" ")
        line.append(part, "not bold") if key not in numbers else line.append(key, "not bold dim").append(f" {value}")
    return line


def _speed(unit: str, rate: float, numbers: Mapping[str, float]) -> str:
    speed, unit = (numbers[SPEED], SPEED) if SPEED in numbers else (rate, f"{unit}/s")
    return f"{speed:.0f} {unit}" if speed >= 10 else f"{speed:.2g} {unit}"


def _short(value: float) -> str:
    """A number of at most six characters or so: "4.31", "1.2e-5"."""
    text = f"{value:.3g}" if abs(value) >= 0.01 or not value else f"{value:.2g}"
    return text.replace("e-0", "e-").replace("e+0", "e+")
