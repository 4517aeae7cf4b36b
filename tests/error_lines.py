"""What an error says to the user: one line, with the words that a test expects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from split_matching.errors import DataError, UserError


def error_line(call: Callable[[], object], kind: type[UserError] = DataError) -> str:
    """Return the message of the error that a call raises; it has one line."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_error(call: Callable[[], object], *words: object, kind: type[UserError] = DataError) -> None:
    """Check that a call raises an error of one line that has all these words."""
    message = error_line(call, kind)
    assert all(str(word) in message for word in words), message
