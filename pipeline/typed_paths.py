"""Paths in messages as the user typed them: a config makes the folder of a data set absolute."""

from __future__ import annotations

import argparse
import os
import re

from split_matching.configs.user_path import user_path

ROOT = "data.root="


def as_typed(text: str, options: argparse.Namespace) -> str:
    """Return a message with the folder of the data set as the command line has it.

    Args:
        text: the message; paths in it are absolute.
        options: of the command line: `set`, `dataset`, `set_file`.
    """
    roots = [word.removeprefix(ROOT) for word in options.set if word.startswith(ROOT)]
    # what a YAML file names is relative to that file; what is typed, to the working folder
    folders = [str(file).rpartition(os.sep)[0] for file in (options.dataset, *options.set_file) if os.sep in str(file)]
    for typed in (*roots[-1:], *folders, ""):
        whole = os.path.abspath(user_path(typed))  # noqa: PTH100 - as configs do it, without following links
        pattern = rf"(?<![\w./-]){re.escape(whole)}"
        if re.search(rf"{pattern}([/:;,\s]|$)", text):
            text = re.sub(rf"{pattern}/", lambda _: os.path.join(typed, ""), text)  # noqa: B023, PTH118 - called here
            return re.sub(rf"{pattern}(?=[:;,\s]|$)", lambda _: typed or ".", text)  # noqa: B023
    return text
