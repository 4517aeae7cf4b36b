"""Read one YAML file strictly: a mapping with string keys, no key twice, every error one line.

Plain YAML keeps the last of two equal keys and says nothing: a second `train:` section would silently undo the first.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from split_matching.errors import ConfigError, first_line

KINDS = {list: "list", str: "text", int: "number", float: "number"}

LONGEST_INTEGER = 64
"""Bits of a whole number."""


class _StrictLoader(yaml.SafeLoader):
    """`SafeLoader` that rejects keys that appear twice or are no strings, and aliases: a few can make gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{alias.anchor} is not allowed: write the value itself", alias.start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number of usual size, as YAML 1.2 has it; Python refuses to print huge ones.

        In YAML 1.1, which the parser follows elsewhere, 2007_000032 and 1:30 are numbers, and 010 is 8. Here these are
        text, and 010 becomes 10 where the schema has a number.
        """
        text = self.construct_scalar(node)
        value = int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if value.bit_length() > LONGEST_INTEGER:
            raise yaml.constructor.ConstructorError(None, None, "the number is too large", node.start_mark)
        return value

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Return a text that can be part of a path and be printed."""
        value = str(super().construct_yaml_str(node))
        if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
            raise yaml.constructor.ConstructorError(
                None, None, "the text has a character that cannot be written", node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not a plain word; quote it", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_INTEGER = "tag:yaml.org,2002:int"
_StrictLoader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag != _INTEGER]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    _INTEGER, re.compile(r"([-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_StrictLoader.add_constructor(_INTEGER, _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", _StrictLoader.construct_yaml_str)


def _load(text: str) -> Any:
    """Parse YAML; the value belongs to the caller. Raises what `_parse` raises."""
    return deepcopy(_parse(text))


@lru_cache(maxsize=128)  # by the text itself: a command reads the class list once for each stage
def _parse(text: str) -> Any:
    """Parse YAML; whatever is wrong with a value is a YAMLError, but RecursionError for deep nesting."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError):
        raise
    except Exception as error:  # the parser hands 0b_, 2024-13-45 and 5,000 digits to Python, which raises many kinds
        raise yaml.YAMLError(f"a value cannot be understood ({first_line(error)})") from None


def parse_value(text: str) -> Any:
    """Parse the value of an override, `key=value`.

    Args:
        text: YAML of one value: `3`, `1e-4`, `[1, 2]`, `true`, `null`, or plain text.

    Returns:
        The parsed value. `1e-4` stays a string in YAML; the schema turns it into a float.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value {shorten(text)!r} is not YAML: {_reason(error)}; quote it") from None
    except RecursionError:
        raise ConfigError(f"the value {shorten(text)!r} is nested too deeply; expected one value") from None


def read_mapping(path: Path, label: str, form: str = "`key: value` lines") -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Args:
        path: the file.
        label: how errors name the file.
        form: what such a file holds, for errors.

    Returns:
        The mapping; empty for an empty file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, not YAML, not a mapping, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{label}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{label}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{label}: cannot be read ({error.strerror}); expected a YAML file") from None
    try:
        value = _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{label}: broken YAML: {_reason(error)}; correct the file") from None
    except RecursionError:
        raise ConfigError(f"{label}: nested too deeply; expected {form}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{label}: holds a {KINDS.get(type(value), 'value')}; expected {form}")
    return value


def shorten(text: str, limit: int = 100) -> str:
    """Return a text that an error shows, cut where it is long."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _reason(error: yaml.YAMLError) -> str:
    """Return what the parser says as one line, with the line number."""
    if isinstance(error, yaml.MarkedYAMLError):
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        return f"{error.problem or error.context or 'not understood'}{where}"
    return " ".join(str(error).split())
