"""Command-line arguments that several verbs share, and the config and plan that they ask for."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from split_matching.configs.load import load_with_origins
from split_matching.configs.schema import Config
from split_matching.configs.strict_yaml import shorten
from split_matching.environment import default_artifacts
from split_matching.errors import ConfigError, did_you_mean
from split_matching.pipeline import stages
from split_matching.pipeline.plan import Plan
from split_matching.pipeline.run.run_log import LOG_LEVELS

OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")  # the user's: a run sets it for libraries
RUNTIME_OPTIONS = ("workers", "engine", "scheduler", "artifacts", "remote", "device")


FEW = 4  # choices that an error lists, not only the one that was probably meant

_CHOICE = re.compile(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and without abbreviations: `--image` is not `--images`."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        if choice := _CHOICE.fullmatch(message):
            known = re.findall(r"'(.*?)'", choice[3])
            meant = did_you_mean(choice[2], known) if len(known) > FEW else ""
            message = f"argument {choice[1]}: {choice[2]!r}: {meant or f'expected one of {choice[3]}'}"
        raise ConfigError(f"{message.removesuffix('?')}{'?' if message.endswith('?') else ';'} see {self.prog} --help")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the config and the cache; they mean the same to every verb."""
    add = parser.add_argument_group("config and cache").add_argument
    parser.set_defaults(images=None, trained_on=None)
    add(
        "--dataset",
        default="shapes",
        metavar="NAME",
        help="configs/NAME.yaml, or a YAML file of yours (default: shapes)",
    )
    add(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change a config value, e.g. train.steps=500; the verb `config` lists them",
    )
    add(
        "--set-file",
        action="extend",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="YAML files laid over the data set's, later ones win",
    )
    add("--artifacts", type=parse_folder, metavar="DIR", help="folder of the cache (runtime.artifacts)")
    add("--debug", action="store_true", help="print tracebacks, and luigi's log")


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a verb that looks at the cache without any config."""
    parser.add_argument("--artifacts", type=parse_folder, metavar="DIR", help="folder of the cache (runtime.artifacts)")
    parser.add_argument("--debug", action="store_true", help="print tracebacks")


def cache_of(options: argparse.Namespace) -> Path:
    """Return the folder of the cache that the options of `add_cache_options` name."""
    return Path(options.artifacts) if options.artifacts else default_artifacts()


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a verb that runs stages."""
    add = parser.add_argument
    add("--workers", type=whole_number(1), metavar="N", help="processes that work at the same time (runtime.workers)")
    add("--engine", choices=("processes", "slurm"), help="who does the work (runtime.engine)")
    add("--scheduler", metavar="HOST:PORT", help="a luigid that several machines share (runtime.scheduler)")
    add_remote_option(parser)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, for a verb that computes with CLIP or a decoder."""
    choices = ("auto", "cpu", "cuda")
    parser.add_argument("--device", choices=choices, help="where CLIP and the decoder run (runtime.device)")


def add_remote_option(parser: argparse.ArgumentParser) -> None:
    """Add `--remote`, for a verb that shares artifacts."""
    what = "s3://, gs://, ssh:// or file:// of shared artifacts (runtime.remote)"
    parser.add_argument("--remote", metavar="ADDRESS", help=what)


def add_variants_option(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--variants`; `use` says what the verb does with the variants."""
    parser.add_argument(
        "--variants",
        action="extend",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help=f"YAML files, each laid over the config by itself: a variant, named by its file; {use}",
    )


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """Add `--images`, which cuts the data set to a few images."""
    parser.add_argument(
        "--images",
        type=parse_image_ids,
        metavar="ID,...",
        help="a quick trial on these training and validation images only, kept apart in the cache",
    )


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """Add `--log-level`, for a verb that keeps a log file."""
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"what the log file in artifacts/DATASET/logs/ keeps: {', '.join(LOG_LEVELS)} (default: info)",
    )


def load_options_config(options: argparse.Namespace) -> Config:
    """Return the config that the options of `add_config_options` ask for."""
    return load_options_with_origins(options)[0]


def load_options_with_origins(options: argparse.Namespace) -> tuple[Config, dict[str, str]]:
    """Return the config that the options ask for, and by path what set each field."""
    overrides, taken = overrides_of(options), None
    if options.trained_on:
        from split_matching.pipeline.trained_on import take_over

        taken = take_over(options.trained_on, overrides)
    try:
        config, origins = load_with_origins(options.dataset, options.set_file, overrides, taken)
    except ConfigError as error:
        raise ConfigError(_name_option(str(error), options)) from None
    found = with_user_threads(config)
    return found, origins if found is config else {**origins, "runtime.threads": "OMP_NUM_THREADS"}


def _name_option(message: str, options: argparse.Namespace) -> str:
    """Return an error with the option in place of `--set`, where a short form gave the value."""
    given = [name for name in RUNTIME_OPTIONS if getattr(options, name, None) is not None]
    short = next((name for name in given if message.startswith(f"--set: runtime.{name} ")), "")
    return f"--{short}{message.removeprefix('--set')}" if short else message


def with_user_threads(config: Config) -> Config:
    """Return a config with `runtime.threads` as OMP_NUM_THREADS says, unless it is set.

    torchrun sets that variable without being asked, so under torchrun it says nothing.
    """
    first = OMP_NUM_THREADS.partition(",")[0].strip()
    if config.runtime.threads or "TORCHELASTIC_RUN_ID" in os.environ or not first.isdecimal():
        return config
    runtime = config.runtime.model_copy(update={"threads": int(first)})
    return config.model_copy(update={"runtime": runtime})


def load_plan(options: argparse.Namespace) -> Plan:
    """Return the plan of the config that the options ask for."""
    return stages.make_plan(load_options_config(options))


def overrides_of(options: argparse.Namespace) -> list[str]:
    """Return `--set` and the options that are short forms of config values, as overrides."""
    values = {name: getattr(options, name, None) for name in RUNTIME_OPTIONS}
    # JSON is YAML, so that any path survives
    short = [f"runtime.{name}={json.dumps(value)}" for name, value in values.items() if value is not None]
    images = [] if options.images is None else [f"data.images={json.dumps(options.images)}"]
    return [*options.set, *short, *images]


def config_arguments(options: argparse.Namespace) -> list[str]:
    """Return the words of the command line that chose the config, to be shown in a command."""
    words = ["--dataset", options.dataset]
    words += ["--artifacts", options.artifacts] if options.artifacts else []
    words += ["--set-file", *map(str, options.set_file)] if options.set_file else []
    words += ["--set", *options.set] if options.set else []
    words += ["--images", ",".join(options.images)] if options.images else []
    return words


def check_output_file(out: Path | None, options: argparse.Namespace, config: Config) -> None:
    """Reject a file to write that is there and belongs to the data set.

    Args:
        out: the file; None for a place in the cache.
        options: those that chose the config.
        config: the config.

    Raises:
        ConfigError: it lies below `data.root`, or is the config's own file.
    """
    if out is None or not out.exists():
        return
    place, root = Path(os.path.realpath(out)), config.data.root
    if place == Path(os.path.realpath(options.dataset)) or (root and Path(os.path.realpath(root)) in place.parents):
        raise ConfigError(f"--out {out}: it is a file of the data set; choose another name")


# --- types of arguments -----------------------------------------------------------------------------------------------


def parse_image_ids(text: str) -> list[str]:
    """Return the ids of a list with commas between them."""
    ids = [image_id.strip() for image_id in text.split(",")]
    if not all(ids):
        raise argparse.ArgumentTypeError("expected ids with commas between them, e.g. 2007_000032,2007_000039")
    return ids


def parse_folder(text: str) -> str:
    """Return the name of a folder, which may not exist yet."""
    if not text.strip():  # an unset variable of a shell: it would mean the working folder
        raise argparse.ArgumentTypeError("is empty; expected a folder")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is no text in UTF-8; expected such a name") from None
    if os.path.lexists(text) and not os.path.isdir(text):  # noqa: PTH112 - Path.is_dir raises for a long name
        raise argparse.ArgumentTypeError(f"{text} is no folder; expected one, which may not exist yet")
    return text


def parse_output_file(text: str) -> Path:
    """Return the path of a file to write, before anything is computed for it."""
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; expected the name of a file in it")
    return Path(text)


def parse_output_folder(text: str) -> Path:
    """Return the path of a folder to write into, before anything is computed for it."""
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file; expected a folder, which may not exist yet")
    return Path(text)


def whole_number(least: int) -> Callable[[str], int]:
    """Return what parses a whole number from some number on."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\s*\d{1,18}\s*", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{shorten(repr(text))}: expected a whole number from {least}")
        return int(text)

    return parse


def parse_stage(text: str) -> str:
    """Return the name of a stage."""
    try:
        check_command(text, "stage", [stage.__name__ for stage in stages.STAGES])
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def check_command(word: str, kind: str, known: Iterable[str]) -> None:
    """Check a stage or verb; argparse would list them all instead of the one that was probably meant.

    Args:
        word: what was typed.
        kind: "stage", or "stage or verb".
        known: names that there are.

    Raises:
        ConfigError: it is not one of the known names.
    """
    known = list(known)
    if word in known:
        return
    meant = did_you_mean(word, {"help": "--help", **{name: name for name in known}})
    meant = meant or f"expected one of {', '.join(known)}"
    raise ConfigError(f"unknown {kind} {word!r}: {meant}")
