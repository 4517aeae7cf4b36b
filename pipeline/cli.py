"""The command line: every stage and every verb by name. One file a verb in `verbs/`; here errors become lines.

Exit codes: 0 the result is fresh, 1 a stage failed, 2 wrong usage or config, 3 data or weights missing, 4 a file of the
cache is damaged, 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from split_matching.cache.disk_errors import explain_disk_error
from split_matching.configs.load import known_datasets
from split_matching.environment import INSTALLED, command, commit, explain_missing_package, version
from split_matching.errors import ConfigError, UserError, did_you_mean, one_line
from split_matching.pipeline import stages as stages_module
from split_matching.pipeline.arguments import Parser, check_command
from split_matching.pipeline.run.run_log import list_versions, note_of
from split_matching.pipeline.run.torchrun import TRAINING, run_together
from split_matching.pipeline.verbs import (
    ablate,
    adopt,
    check_data,
    config,
    diff,
    export,
    gc,
    inspect,
    note,
    plan,
    predict,
    pull,
    push,
    runs,
    stage,
    status,
    verify,
)
from split_matching.streams import OUTPUT, drop_output


class Verb(Protocol):
    """What a file in `verbs/` has."""

    HELP: str
    """One line for the list of verbs."""
    DESCRIPTION: str
    """A paragraph for the verb's own help."""
    EXIT_CODES: str
    """What its exit codes mean."""

    @property
    def EXAMPLES(self) -> Sequence[str]:
        """Arguments as a user types them, the verb first."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments to its parser."""

    def run(self, options: argparse.Namespace) -> int:
        """Do what the verb is for, and return the exit code."""


VERBS: Mapping[str, Verb] = {
    "status": status,
    "plan": plan,
    "config": config,
    "verify": verify,
    "check-data": check_data,
    "inspect": inspect,
    "runs": runs,
    "note": note,
    "diff": diff,
    "adopt": adopt,
    "gc": gc,
    "push": push,
    "pull": pull,
    "predict": predict,
    "export": export,
    "ablate": ablate,
}

DESCRIPTION = """Split Matching: zero-shot semantic segmentation from cached CLIP features. A stage runs whatever it
needs that is not in the cache."""
EXIT_CODES = """0 fresh, 1 a stage failed, 2 wrong usage or config, 3 data or weights missing,
4 a file of the cache is damaged, 130 interrupted (the same command continues from there)"""
EXAMPLES = (
    "Report --dataset shapes",
    "ClusterPseudoMasks --dataset shapes --images train_000001,train_000002",
    "Evaluate --dataset voc --set data.root=/data train.steps=5000 --workers 4",
    "plan Report --dataset shapes --set pseudo_masks.merge=0.8",
    "--print-completion bash > ~/.local/share/bash-completion/completions/split-matching",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = run_together(lambda: _run(arguments), _may_train(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `status | head`: the reader has ended
        drop_output()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        debug = "--debug" in arguments
        if debug:
            traceback.print_exc()
        line, code = describe_error(error, debug)
        line += f" ({note})" if (note := note_of(error)) else ""
        if isinstance(error, OSError) and error.filename == OUTPUT:
            drop_output()
        print(f"error: {one_line(line)}", file=sys.stderr)
        return code


def describe_error(error: Exception, debug: bool = False) -> tuple[str, int]:
    """Return the line that tells the user of an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.filename == OUTPUT:
        return f"cannot write to {OUTPUT}: {os.strerror(error.errno or 0).lower()}", 1
    if explained := explain_disk_error(error, action="use"):  # e.g. the folder of the cache may not be read
        return str(explained), explained.exit_code
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("split_matching"):
        return explain_missing_package(error), 2
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        line = f"{error.filename}: {error.strerror.lower()}"
    return line if debug else f"{line}; rerun with --debug", 1


def _may_train(arguments: Sequence[str]) -> bool:
    """Whether a command may train the decoder, which several processes then do together."""
    names = [member.name for member in stages_module.STAGES]
    training = [m.__name__ for m in stages_module.STAGES[names.index(TRAINING) :]] if TRAINING in names else []
    return any(word in (*training, "ablate") for word in arguments[:1])


def _run(arguments: list[str]) -> int:
    stages = [member.__name__ for member in stages_module.STAGES]
    if not arguments:
        raise ConfigError(f"no stage given: expected one of {', '.join([*stages, *VERBS])}")
    parser = build_parser()
    verb = next((word for word in arguments if word in (*stages, *VERBS)), "")
    if verb and arguments[0] != "--help" and arguments[0].partition("=")[0] in _options_of(parser, verb):
        raise ConfigError(f"{arguments[0]} stands before {verb}; expected `{command()} {verb}` first, then options")
    if not arguments[0].startswith("-"):
        check_command(arguments[0], "stage or verb", [*stages, *VERBS])
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        meant = _explain_unknown(unknown[0], options, parser)
        raise ConfigError(f"unrecognized arguments: {' '.join(unknown)}; {meant}see {command()} {options.verb} --help")
    options.command_line = arguments
    return VERBS[options.verb].run(options) if options.verb in VERBS else stage.run(options)


def _options_of(parser: Parser, verb: str) -> list[str]:
    """Return the long options of a stage or verb; none for an unknown one."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    own = commands.choices[verb]._actions if verb in commands.choices else []
    return [option for action in own for option in action.option_strings if option.startswith("--")]


def _explain_unknown(word: str, options: argparse.Namespace, parser: Parser) -> str:
    """Return what was probably meant by an argument that a stage or verb does not take, or ""."""
    if word.startswith("--"):
        meant = did_you_mean(word.partition("=")[0], _options_of(parser, options.verb))
        return meant and f"{meant} "
    return f"did you mean --dataset {word}? " if word in known_datasets() and hasattr(options, "dataset") else ""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wraps everything to the terminal: paragraphs, indented lists of two columns, and commands, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for block in _blocks(text):
            item = re.match(r"(  \S.*?\s{2,})\S", block)
            if block.startswith("  ") and not item:
                lines += _wrap_command(block, width)
            else:
                hanging = " " * len(item[1]) if item else ""
                lines += textwrap.wrap(block, width, subsequent_indent=hanging) or [""]
        return "\n".join(lines)


def _blocks(text: str) -> list[str]:
    """Return paragraphs, empty lines, and items of lists with the lines below them that are indented further."""
    blocks: list[str] = []
    for line in text.splitlines():
        goes_on = blocks and blocks[-1] and line.strip()
        if goes_on and (line.startswith("   ") or not (line.startswith(" ") or blocks[-1].startswith(" "))):
            blocks[-1] += f" {line.strip()}"
        else:
            blocks.append(line.rstrip())
    return blocks


def _wrap_command(line: str, width: int) -> list[str]:
    """Break a command as a shell reads it, rather before an option than between its values."""
    words = re.findall(r"""(?:"[^"]*"|'[^']*'|\S)+""", line)
    lines, start = [], "  "
    for place, word in enumerate(words):
        values = itertools.takewhile(lambda other: not other.startswith("--"), words[place + 1 :])
        group = " ".join([word, *values]) if word.startswith("--") else word
        needed = len(group) if len(group) + 8 <= width else len(word)
        if start.strip() and len(start) + needed + 2 > width:
            lines.append(f"{start}\\")
            start = "      "
        start += f"{word} "
    return [*lines, start.rstrip()]


class _ShowVersion(argparse.Action):
    """Prints the versions of the code and of what results depend on, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """See argparse.Action."""
        found = commit()
        print(f"split-matching {version()}{found and f', commit {found}'}", *list_versions(), sep="\n")
        parser.exit()


class _PrintCompletion(argparse.Action):
    """Prints the script that completes commands in a shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, shell: Any, option: Any = None) -> None:
        """See argparse.Action."""
        from split_matching.pipeline.completion import completion_script

        print(completion_script(build_parser(INSTALLED), shell))
        parser.exit()


def build_parser(program: str = "") -> Parser:
    """Return the parser of all stages and verbs.

    Args:
        program: what a user types before a stage or verb; "" for what was typed now.
    """
    parser = Parser(
        prog=program or command(),
        description=DESCRIPTION,
        epilog=_epilog(EXIT_CODES, EXAMPLES),
        formatter_class=_Help,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print versions and commit")
    shells = ("bash", "zsh")
    completion = "print a script that completes names, options and settings"
    parser.add_argument("--print-completion", action=_PrintCompletion, choices=shells, metavar="SHELL", help=completion)
    parsers = parser.add_subparsers(dest="verb", metavar="STAGE or VERB", required=True, title="stages and verbs")
    for member in stages_module.STAGES:
        stage.add_arguments(
            parsers.add_parser(
                member.__name__,
                help=member.makes,
                description=f"Makes {member.makes}, and whatever that needs.\n{stage.DESCRIPTION}",
                epilog=_epilog(stage.EXIT_CODES, stage.examples(member.__name__)),
                formatter_class=_Help,
            ),
            member,
        )
    for name, verb in VERBS.items():
        verb.add_arguments(
            parsers.add_parser(
                name,
                help=verb.HELP,
                description=verb.DESCRIPTION.strip(),
                epilog=_epilog(verb.EXIT_CODES, verb.EXAMPLES),
                formatter_class=_Help,
            )
        )
    return parser


def _epilog(exit_codes: str, examples: Sequence[str]) -> str:
    title = "example" if len(examples) == 1 else "examples"
    return "\n".join([f"exit codes: {exit_codes}", "", f"{title}:", *(f"  {command()} {line}" for line in examples)])
