"""Tab completion: a script for the shell, made from the parser by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from split_matching.configs.load import known_datasets, list_paths
from split_matching.pipeline.stages import STAGES

FILES = {"artifacts", "classes", "decoder", "gammas", "html", "input", "out", "set_file", "variants"}
"""Arguments that are files or folders, by their names in the parsed options."""


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return a script that completes the command line in a shell.

    Args:
        parser: of all stages and verbs; its arguments are told what they complete to.
        shell: "bash" or "zsh".
    """
    import shtab

    words: dict[str, Sequence[str]] = {
        "dataset": known_datasets(),
        "trained_on": known_datasets(),
        "set": [path for path in list_paths() if "." in path],
        "part": list_paths(),
        "stage": [stage.__name__ for stage in STAGES],
        "stages": [stage.__name__ for stage in STAGES],
        "names": [stage.__name__ for stage in STAGES],
    }
    functions = []
    for action in _actions(parser):
        if action.dest in words:
            name = f"_split_matching_{action.dest}"
            choices = " ".join(words[action.dest])
            action.complete = {"bash": name, "zsh": f"({choices})"}  # type: ignore[attr-defined]
            functions.append(f"{name}() {{ compgen -W '{choices}' -- \"$1\"; }}")
        elif action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    preamble = "\n".join(dict.fromkeys(functions)) if shell == "bash" else ""
    return str(shtab.complete(parser, shell, preamble=preamble))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of the parsers of its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action
