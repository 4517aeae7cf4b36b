"""Digests of values: the same everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from split_matching.cache.keys import canonical_json, changed_names, digest, file_sha256, known_sha256


def test_digest_ignores_order_and_tuples() -> None:
    assert digest({"a": (1, 2), "b": 0.1}) == digest({"b": 0.1, "a": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_canonical_text_and_its_digest() -> None:
    text = '{"a":[1,2.5,null],"b":"\\u00fc"}'
    assert canonical_json({"b": "ü", "a": (1, 2.5, None)}) == text
    assert digest({"b": "ü", "a": (1, 2.5, None)}) == hashlib.sha256(text.encode()).hexdigest()


def test_sha256_of_a_file_is_known_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"one", b"longer"):
        path.write_bytes(content)
        assert known_sha256(path) == file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_changed_names_what_differs_and_what_only_one_has() -> None:
    assert changed_names({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}) == ["a", "c", "d"]
