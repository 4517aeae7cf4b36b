"""The command line under all of its names: `split-matching`, `python -m split_matching`, `python run_pipeline.py`.

Only the standard library is imported at the top, so that a missing package ends in one line and not in a traceback.
"""

from __future__ import annotations

import sys

from split_matching.environment import explain_missing_package
from split_matching.streams import prepare_streams

OLDEST_PYTHON = (3, 11)


def main() -> int:
    """Run the command line and return the exit code."""
    prepare_streams()
    if sys.version_info < OLDEST_PYTHON:
        found, needed = (".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST_PYTHON))
        print(f"error: this is Python {found}; Split Matching needs {needed} or newer", file=sys.stderr)
        return 2
    try:
        from split_matching.pipeline.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"error: {explain_missing_package(error)}", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
