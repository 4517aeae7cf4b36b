"""Words that error messages share."""

from __future__ import annotations

import pytest

from split_matching.configs.load import load_config
from split_matching.environment import command_line
from split_matching.errors import (
    ConfigError,
    CorruptError,
    DataError,
    UserError,
    did_you_mean,
    hide_passwords,
    one_line,
)
from tests.error_lines import error_line


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("stepz", ["steps", "batch"], "did you mean steps?"),
        ("traindecoder", ["TrainDecoder", "Evaluate"], "did you mean TrainDecoder?"),
        ("help", {"help": "--help"}, "did you mean --help?"),
        ("xyz", ["steps"], ""),
        ("xyz", [], ""),
    ],
)
def test_the_name_that_was_probably_meant(word, known, expected):
    assert did_you_mean(word, known) == expected


def test_several_names_come_closest_first():
    assert did_you_mean("t01", ["t10", "t011", "t02", "x"], 2) == "did you mean t011 or t10?"


def test_a_message_is_one_line():
    assert one_line("a\nb\x1b[0m é") == "a\\nb\\x1b[0m é"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ssh://user:secret@host/path", "ssh://user:***@host/path"),
        ("--set=runtime.remote=simplecache::ssh://u:secret@h", "--set=runtime.remote=simplecache::ssh://u:***@h"),
        ("s3://KEY:SE/CR@ET@bucket/a", "s3://KEY:***@bucket/a"),
        ("zip://a.zip::ssh://me@corp:secret@h", "zip://a.zip::ssh://me@corp:***@h"),
        ("two: ssh://a:b@c, ssh://d:e@f", "two: ssh://a:***@c, ssh://d:***@f"),
        ("ssh://user@host:22/path", "ssh://user@host:22/path"),
        ("s3://bucket/a:b", "s3://bucket/a:b"),
    ],
)
def test_passwords_of_addresses_are_hidden(text, shown):
    assert hide_passwords(text) == shown


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, CorruptError])
def test_what_an_error_quotes_is_one_line_as_well(kind):
    assert str(kind("value 'a\nb\x1b[1m': wrong")) == "value 'a\\nb\\x1b[1m': wrong"
    assert str(kind(str(kind("a\nb")))) == "a\\nb"


@pytest.mark.parametrize(
    "override",
    [
        'runtime.device="a\\nb"',
        'data.unseen=["a\\nb"]',
        'decoder.dim="4\\n5"',
        '"a\\nb"=1',
        'train={"a\\nb": 1}',
        "x=\n:",
    ],
)
def test_a_value_with_line_breaks_is_quoted_in_one_line(override):
    error_line(lambda: load_config("shapes", overrides=[override]), ConfigError)


def test_a_file_with_line_breaks_in_values_and_name_is_named_in_one_line(tmp_path):
    path = tmp_path / "a\nb.yaml"
    path.write_text('train: {steps: "4\\n5"}\n')
    assert "a\\nb.yaml" in error_line(lambda: load_config("shapes", [path]), ConfigError)


def test_the_command_in_manifests_has_no_password_and_no_line_break(monkeypatch):
    words = ["/x/run_pipeline.py", "push", "--remote", "ssh://u:secret@h", "--set", "train.steps=3\nclip.seed=1"]
    monkeypatch.setattr("sys.argv", words)
    assert command_line() == r"run_pipeline.py push --remote 'ssh://u:***@h' --set 'train.steps=3\nclip.seed=1'"
