"""A place in an empty cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from split_matching.cache.entry import Entry
from tests.cache.example_builds import KEY


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path / "artifacts", "toy", "squares", KEY)
