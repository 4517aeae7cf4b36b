"""README.md against the project: every stage, verb and config is in it, and every command in it is one that parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from split_matching.pipeline.cli import VERBS, build_parser
from split_matching.pipeline.stages import STAGES

TEXT = Path("README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """What follows `run_pipeline.py` in the code blocks, continued lines joined and comments cut."""
    blocks = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    lines = [line.partition("run_pipeline.py ")[2] for line in blocks.splitlines() if "run_pipeline.py " in line]
    return [command for line in lines if (command := re.split(r"\s+#", line)[0]) != "--help"]


@pytest.mark.parametrize("name", [stage.__name__ for stage in STAGES] + [*VERBS])
def test_every_stage_and_verb_is_named(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_config_is_named_alone_or_with_its_folder(path: Path) -> None:
    assert str(path) in TEXT or f"{path.parent}/*.yaml" in TEXT


@pytest.mark.parametrize("heading", ["How it differs from its peers", "Non-goals", "Citation", "Configs"])
def test_sections_that_readers_look_for_are_there(heading: str) -> None:
    assert f"\n## {heading}\n" in TEXT


@pytest.mark.parametrize("name", re.findall(r"`((?:configs|stages|docs|model)/[\w/.-]+\.\w+)`", TEXT))
def test_files_that_are_named_exist(name: str) -> None:
    assert Path(name.replace("NAME", "voc")).is_file()


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    words = [word for word in shlex.split(command) if word != "$L"]
    options, unknown = build_parser().parse_known_args(words)
    assert not unknown and options.verb == words[0]


def test_commands_are_found() -> None:
    assert len(commands()) > 40
