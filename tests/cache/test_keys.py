"""Digests of values: the same everywhere."""

from __future__ import annotations

import hashlib

import pytest

from split_matching.cache.keys import canonical_json, changed_names, digest


def test_digest_ignores_order_and_tuples() -> None:
    assert digest({"a": (1, 2), "b": 0.1}) == digest({"b": 0.1, "a": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_canonical_text_and_its_digest() -> None:
    text = '{"a":[1,2.5,null],"b":"\\u00fc"}'
    assert canonical_json({"b": "ü", "a": (1, 2.5, None)}) == text
    assert digest({"b": "ü", "a": (1, 2.5, None)}) == hashlib.sha256(text.encode()).hexdigest()


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_changed_names_what_differs_and_what_only_one_has() -> None:
    assert changed_names({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}) == ["a", "c", "d"]
