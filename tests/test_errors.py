"""Words that error messages share."""

from __future__ import annotations

import pytest

from split_matching.errors import did_you_mean, one_line


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
