"""How values become text, and templates become pages: one way for all pages."""

from __future__ import annotations

import base64
import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from split_matching.stages.ground.durations import format_duration

TEMPLATES = Path(__file__).parent / "templates"

UNDEFINED = "\N{EN DASH}"
"""Shown in place of a number that is not defined."""


def read_template(name: str) -> str:
    """Return the text of a file in `templates/`, e.g. "gallery.js"."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def read_script(*names: str) -> tuple[str, str]:
    """Return scripts of `templates/` as one, and its digest as a content security policy names it."""
    script = "".join(read_template(name) for name in names)
    return script, base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def page_template(name: str) -> jinja2.Template:
    """Return a page of `templates/`: everything is escaped, and a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["percent"] = format_percent
    environment.filters["duration"] = format_known_duration
    return environment.get_template(name)


def format_number(value: Any) -> str:
    """Return a value for a table: 12,345 or 0.1235 (four digits); a dash for None and NaN; anything else as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return UNDEFINED
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_percent(value: float | None) -> str:
    """Return a percentage with one decimal, or a dash where it is undefined."""
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.1f}"


def format_known_duration(seconds: float | None) -> str:
    """Return a time with units, or a dash when unknown."""
    return UNDEFINED if seconds is None or not math.isfinite(seconds) else format_duration(seconds)


def format_time(value: Any) -> str:
    """Return a manifest's time (ISO 8601 or seconds since 1970) in UTC; other text as it is, nothing for None."""
    if value is None:
        return ""
    try:
        moment = datetime.fromtimestamp(value, UTC) if not isinstance(value, str) else datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return str(value)
    if moment.tzinfo is None:
        return moment.strftime("%Y-%m-%d %H:%M:%S")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
