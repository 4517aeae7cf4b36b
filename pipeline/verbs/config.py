"""The verb `config`: every setting of the resolved config, or some, with type, range, default and origin."""

from __future__ import annotations

import argparse
import json

from split_matching.configs.listing import as_yaml, config_schema, list_settings
from split_matching.pipeline.arguments import add_config_options, add_images_option, load_options_with_origins
from split_matching.pipeline.terminal import print_line

HELP = "every setting with its value, type, range, default and origin"
DESCRIPTION = """
Prints the resolved config as YAML, or a part of it: a section such as train, a field such as train.lr. Above each
value is what it does; behind it are its type and range, the default, and the file or option that set it. A * marks
what is not the default. What "changes no result" enters no key and runs nothing again. The whole output is a valid
file for --set-file.
"""
EXIT_CODES = "0 printed, 2 wrong usage or config"
EXAMPLES = (
    "config --dataset voc --set train.steps=5000",
    "config train --dataset shapes",
    "config train.lr pseudo_masks.merge --dataset shapes --json",
    "config --schema > config.schema.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `config`."""
    parser.add_argument("part", nargs="*", metavar="PART", help="a section or a field (default: all)")
    add_config_options(parser)
    add_images_option(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same as JSON, an object a setting")
    form.add_argument("--schema", action="store_true", help="a JSON schema of config files, for editors")


def run(options: argparse.Namespace) -> int:
    """Print the settings, or the schema."""
    if options.schema:
        print(json.dumps(config_schema(), indent=1))
        return 0
    config, origins = load_options_with_origins(options)
    settings = list_settings(config, origins, options.part)
    if options.json:
        whole = {"dataset": config.dataset, "settings": [setting.as_json() for setting in settings]}
        print(json.dumps(whole, indent=1))
        return 0
    for number, (line, changed) in enumerate(as_yaml(settings, config)):
        if line or number:
            print_line(line, "bold" if changed else "dim" if line.lstrip().startswith("#") else "")
    return 0
