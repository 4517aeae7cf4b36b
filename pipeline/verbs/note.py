"""The verb `note`: gives a run a name, or says something about it."""

from __future__ import annotations

import argparse

from split_matching.cache.notes import change_note, read_note
from split_matching.pipeline.arguments import add_cache_options, cache_of
from split_matching.pipeline.known_runs import check_run_name, find_run

HELP = "give a run a name, or write a note about it"
DESCRIPTION = """
Keeps a name and a note beside a run, without touching it: nothing becomes stale, and `gc` keeps the run. Without
either, prints what there is. `runs` shows both, a report that is made later the name. `diff`, `note` and load_run take
a name in place of a key.
"""
EXIT_CODES = "0 kept, 2 wrong usage or name, 3 no such run, 4 the note of before cannot be read"
EXAMPLES = ('note 2d389961 "larger clusters; candidates found more of the unseen classes"', "note 2d389961 --name wide")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `note`."""
    add = parser.add_argument
    add("key", metavar="KEY", help="first digits of a run's key, as `runs` prints it, or its name")
    add("text", nargs="?", metavar="NOTE", help="any text; empty: remove the note")
    add("--name", metavar="NAME", help="what to call the run; empty: remove the name")
    add_cache_options(parser)


def run(options: argparse.Namespace) -> int:
    """Keep what was given, and print what there is."""
    root = cache_of(options)
    if options.name:
        check_run_name(options.name)
    found = find_run(root, options.key)
    changes = {"name": options.name, "text": options.text}
    given = {field: value for field, value in changes.items() if value is not None}
    place = (root, found.dataset, found.key)
    note = change_note(*place, **given) if given else read_note(*place)
    print(f"{found.artifact.path}: {note.name or 'no name'}: {note.text or 'no note'}")
    return 0
