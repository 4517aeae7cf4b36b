"""The verb `config`: prints the resolved config, with an explanation of every value."""

from __future__ import annotations

import argparse

from split_matching.configs.load import describe
from split_matching.pipeline.arguments import add_config_options, load_options_config

HELP = "the resolved config, with an explanation of every value"
DESCRIPTION = """
Prints the resolved config as YAML, with an explanation of every value: this text is a valid file for --set-file.
Values marked `runtime` change no result and rerun nothing.
"""
EXIT_CODES = "0 printed, 2 wrong usage or config"
EXAMPLES = ("config --dataset voc --set train.steps=5000",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `config`."""
    add_config_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the config."""
    print(describe(load_options_config(options)))
    return 0
