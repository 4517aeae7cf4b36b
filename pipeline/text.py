"""Numbers, times, lists and states as words for the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from split_matching.cache.entry import State

WAIT = "waits for "
"""Begins the reason of a stage that is not fresh because an upstream stage is not."""

NO_VALIDATION = "this trial has no validation image: add one to --images"

LONG = 6
"""Longer lists are shortened: of two lists that are compared only the differences are shown, of reasons the first."""


def format_size(size: int) -> str:
    """Return a number of bytes with a unit: "512 B", "3.4 MB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def join_words(words: Iterable[str]) -> str:
    """Return words with commas between them; of a long list only the first ones, and how many more there are."""
    words = list(words)
    rest = [f"and {len(words) - LONG} more"] if len(words) > LONG + 1 else []
    return ", ".join([*words[:LONG], *rest] if rest else words)


def describe_change(before: Any, after: Any) -> str:
    """Say how a value changed: "8 -> 12"; for long lists only the differences, e.g. "without 3; with 7, 9"."""
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        parts = [("without", [v for v in before if v not in after]), ("with", [v for v in after if v not in before])]
        words = [f"{word} {join_words(map(_word, values))}" for word, values in parts if values]
        if words and max(len(before), len(after)) > LONG:
            return "; ".join(words)
    return f"{before} -> {after}"


def _word(value: Any) -> str:
    """Return an entry of a list as text; the name of a class."""
    return str(value["name"]) if isinstance(value, Mapping) and "name" in value else str(value)


def describe_state(state: State) -> str:
    """Return a state and its reasons as text, with all stages that it waits for in one reason."""
    waits = [reason.removeprefix(WAIT) for reason in state.reasons if reason.startswith(WAIT)]
    own = [reason for reason in state.reasons if not reason.startswith(WAIT)]
    reasons = [*([join_words(own)] if own else []), *([WAIT + ", ".join(waits)] if waits else [])]
    return str(replace(state, reasons=tuple(reasons)))


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping by dotted path."""
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat.update(flatten(child, f"{path}.{key}".strip(".")))
    return flat
