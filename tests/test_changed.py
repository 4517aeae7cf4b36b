"""Which tests `make quick` runs for a changed file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.changed import ROOT, matching_tests


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("cache/keys.py", "tests/cache/test_keys.py"),
        ("pipeline/verbs/gc.py", "tests/pipeline/verbs/test_gc.py"),
        ("model/match_statistics.py", "tests/model/test_criterion.py"),  # tested with what it is part of
        ("stages/training/batches.py", "tests/stages/training/test_train.py"),
        ("configs/voc.yaml", "tests/configs/test_class_list.py"),
        ("stages/pages/templates/report.html.j2", "tests/stages/pages/test_report.py"),
        ("docs/cache.md", "tests/test_readme.py"),
        ("Makefile", "tests/test_readme.py"),
        ("benchmarks/reads.py", "tests/test_benchmarks.py"),
        ("split_matching/environment.py", "tests/test_packaging.py"),
        ("tests/handmade.py", "tests/stages/training/test_train.py"),
        ("tests/cache/test_keys.py", "tests/cache/test_keys.py"),
    ],
)
def test_a_change_runs_the_tests_beside_it(changed: str, expected: str) -> None:
    assert (ROOT / changed).exists()
    found = matching_tests(Path(changed))
    assert expected in found
    assert all((ROOT / test).is_file() for test in found)


def test_a_test_that_is_gone_is_not_run() -> None:
    assert matching_tests(Path("tests/cache/test_gone.py")) == []


@pytest.mark.parametrize("room", ["cache", "configs", "model", "stages", "pipeline"])
def test_every_file_of_the_code_has_tests_beside_it(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        found = matching_tests(path.relative_to(ROOT))
        assert found and all(test.startswith(f"tests/{room}/") for test in found), path
