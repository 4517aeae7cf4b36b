"""The errors a user may see, each with the exit code that the command line ends with.

Every message is one line: what is wrong, where, what was expected, what to do. Anything that is not one of these is a
bug in this project and keeps its traceback.
"""


def one_line(text: str) -> str:
    """Return a message with line breaks and other control characters escaped: names in it may come from anywhere."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def first_line(error: BaseException) -> str:
    """Return the type of an error of a library and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class UserError(Exception):
    """A stage failed for a reason the user can mend."""

    exit_code = 1


class ConfigError(UserError):
    """A command line, config key or config value is wrong."""

    exit_code = 2


class DataError(UserError):
    """A data set, image, mask, split file or weights file is missing or unusable."""

    exit_code = 3


class CorruptError(UserError):
    """A file in the cache is truncated or altered."""

    exit_code = 4
