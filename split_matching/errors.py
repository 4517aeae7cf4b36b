"""The errors that a user may see, each with the exit code of the command line, and words that their messages share.

Every message is one line: what is wrong, where, what was expected, what to do. Any other exception is a bug in this
project and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

SIMILAR = 0.5
"""Share of equal letters from which a name may have been meant, see `difflib.SequenceMatcher.ratio` (choice)."""


_PASSWORD = re.compile(r"(//[^/:\s]*:)(?!:)\S*@")
"""A password may hold anything, also `/` and `@`; after `::` comes another address of fsspec, no password."""


def one_line(text: str) -> str:
    """Return a message with line breaks and other control characters escaped: names in it may come from anywhere."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def hide_passwords(text: str) -> str:
    """Return a text with every `//USER:PASSWORD@` of an address without its password."""
    return _PASSWORD.sub(r"\1***@", text)


def format_count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, or with the words that follow: "1 file", "2 files", "1 mask is", "2 masks are".

    Args:
        number: how many.
        one: the words for one.
        many: the words for any other number; by default those for one with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def first_line(error: BaseException) -> str:
    """Return the type of an error of a library and the first line of what it says, cut where it is long."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def did_you_mean(word: str, known: Iterable[str] | Mapping[str, str], count: int = 1) -> str:
    """Return "did you mean steps?" for the known name that is most like a word; "" if none is. Case does not matter.

    Args:
        word: what was typed.
        known: names; or what to show for each name.
        count: how many names to show at most.
    """
    shown = known if isinstance(known, Mapping) else {name: name for name in known}
    by_lower = {name.lower(): text for name, text in shown.items()}
    close = difflib.get_close_matches(word.lower(), by_lower, count, SIMILAR)
    return f"did you mean {' or '.join(by_lower[name] for name in close)}?" if close else ""


class UserError(Exception):
    """A stage failed for a reason that the user can fix.

    Args:
        message: one line; line breaks in what it quotes from outside are escaped.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ConfigError(UserError):
    """A command line, config key or config value is wrong."""

    exit_code = 2


class DataError(UserError):
    """A data set, image, mask, split file or weights file is missing or unusable."""

    exit_code = 3


class CorruptError(UserError):
    """A file in the cache is truncated or altered.

    Args:
        message: one line.
        damaged: the files that are; a run renames them, and makes them again.
    """

    exit_code = 4

    def __init__(self, message: str, *damaged: Path) -> None:
        super().__init__(message)
        self.damaged = damaged
