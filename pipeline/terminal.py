"""What a terminal gets and a file or a pipe does not: colour, and tables that are wrapped to its width.

rich does the work, and knows NO_COLOR, FORCE_COLOR, COLUMNS and dumb terminals. It is imported only where a terminal is
written to, so that `status | grep` pays nothing for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from split_matching.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    **{"fresh": "green", "ran": "green", "stale": "yellow", "run": "yellow"},
    **{"partial": "cyan", "corrupt": "bold red", "unreadable": "bold red"},
}
"""Colours of states, by the first word of what is said."""


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether somebody may be looking: of standard output, unless another stream is given."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty()


def console_of(stream: TextIO) -> Console:
    """Return a console that prints text as it is: no markup, no guesses at what is a number."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line knows what to do

    return Plain(file=stream, markup=False, emoji=False, highlight=False, force_jupyter=False)


def print_line(line: str, style: str = "") -> None:
    """Print a line to standard output, on a terminal in some style of rich, e.g. "bold"."""
    if style and is_terminal():
        console_of(sys.stdout).print(line, style=style, soft_wrap=True)
    else:
        print(line)


def join_columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return two columns as lines of any length."""
    width = max((len(left) for left, _ in rows), default=0)
    return [f"{left:<{width}}  {right}" for left, right in rows]


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print two columns to standard output, the second one wrapped to the terminal and coloured by its first word.

    Control characters in them are escaped: names of files and values of manifests may come from anywhere.
    """
    rows = [(one_line(left), one_line(right)) for left, right in rows]
    if not is_terminal():
        for line in join_columns(rows):
            print(line)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for left, right in rows:
        text, word = Text(right), re.match(r"\w*", right)
        text.stylize(STYLES.get(word[0], "") if word else "", 0, word.end() if word else 0)
        table.add_row(Text(left), text)
    console_of(sys.stdout).print(table)
