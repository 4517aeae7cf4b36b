"""The verb `plan`, and how changes are told in words."""

from __future__ import annotations

from typing import Any

import pytest

from split_matching.cache.entry import State
from split_matching.pipeline.text import describe_change, describe_state
from tests.pipeline.toy_project import Toy


def planned(project: Toy, stage: str, *more: str) -> dict[str, str]:
    """What `plan` says of each stage."""
    assert project.run(f"plan {stage}", *more) == 0
    return {line.split()[0]: line.partition(" ")[2].strip() for line in project.out[:-1]}


def test_plan_compares_with_the_nearest_artifact_and_not_with_a_later_trial(project: Toy) -> None:
    project.run("Squares")
    project.run("Squares", "--set", "shapes.train_scenes=3", "pseudo_masks.k=9")
    said = planned(project, "Total", "--set", "pseudo_masks.k=9")["Squares"]
    assert said.startswith("run    missing (config pseudo_masks.k 8 -> 9), 4 shards, took ")


def test_plan_names_the_input_that_changed_where_the_config_did_not(project: Toy) -> None:
    project.run("Total")
    project.run("Squares", "--set", "pseudo_masks.k=9")
    said = planned(project, "Total", "--set", "pseudo_masks.k=9")
    assert said["Squares"].startswith("fresh")
    assert said["Total"].startswith("run    missing (input squares/train changed), took ")


def test_plan_says_when_a_config_upstream_changed_and_its_result_did_not(project: Toy) -> None:
    project.run("Listing")
    project.run("Numbers", "--set", "shapes.seed=5")
    said = planned(project, "Listing", "--set", "shapes.seed=5")
    assert said["Listing"].startswith("run    missing (config upstream changed), took ")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (8, 12, "8 -> 12"),
        (None, [1], "None -> [1]"),
        ([4, 8], [4], "[4, 8] -> [4]"),
        (list(range(9)), [*range(1, 9), 30, 31], "without 0; with 30, 31"),
        (list(range(9)), list(range(200)), "with 9, 10, 11, 12, 13, 14, and 185 more"),
        ([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1], "[1, 2, 3, 4, 5, 6, 7] -> [7, 6, 5, 4, 3, 2, 1]"),
        ([{"id": i, "name": f"n{i}"} for i in range(9)], [{"id": i, "name": f"n{i}"} for i in range(8)], "without n8"),
    ],
)
def test_long_lists_are_compared_by_what_differs(before: Any, after: Any, said: str) -> None:
    assert describe_change(before, after) == said


def test_of_very_many_reasons_the_first_are_said() -> None:
    state = State("corrupt", (*(f"train-{i:05d}.h5 is missing" for i in range(1000)), "waits for A", "waits for B"))
    said = describe_state(state)
    assert said.endswith("train-00005.h5 is missing, and 994 more, waits for A, B)") and len(said) < 250
