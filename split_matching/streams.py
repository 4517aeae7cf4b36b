"""Standard input, output and error as the command line needs them: open, and able to take every character.

Imports only the standard library, as it runs before everything else.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import TextIO

PLAIN = {"└": "`", "├": "|", "│": "|", "─": "-", "±": "+-", "×": "x", "…": "..."}
"""What is shown for a character that the terminal does not have; others are shown as \\uXXXX."""

OUTPUT = "standard output"


def prepare_streams() -> None:
    """Open what is closed, and let characters that cannot be shown, and a full standard error, end no run."""
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free; else a file of the cache would have it
    codecs.register_error("plain", _plain)
    sys.stdout = _stream(1, _Output, sys.stdout)
    sys.stderr = _stream(2, _Messages, sys.stderr)


def drop_output() -> None:
    """Let what is still to be written to standard output vanish, so that the end of Python does not fail at it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Output(io.FileIO):
    """Names itself in an error of writing."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


class _Messages(io.FileIO):
    """Loses messages where they cannot be written; as elsewhere, a reader that has ended is an error."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data) or len(data)
        except BrokenPipeError:
            raise
        except OSError:
            return len(data)


def _stream(number: int, kind: type[io.FileIO], former: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream in place of the one that Python opened, or did not open."""
    if former is not None:
        former.flush()
    buffered = io.BufferedWriter(kind(number, "w", closefd=False))
    lines = number == 2 or os.isatty(number)
    encoding = former.encoding if former is not None else "utf-8"
    return io.TextIOWrapper(buffered, encoding, "plain", line_buffering=lines, write_through=number == 2)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what is written in place of characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    if all("\udc80" <= sign <= "\udcff" for sign in signs):  # bytes of a file's name that are no text
        return bytes(ord(sign) - 0xDC00 for sign in signs), error.end
    return "".join(PLAIN.get(sign, sign.encode("ascii", "backslashreplace").decode()) for sign in signs), error.end
