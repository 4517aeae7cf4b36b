"""A section of the config, and the marks of its fields: which of them enter cache keys.

A field without a mark is semantic: it enters the key of each stage that reads it. `RUNTIME` fields enter none. A field
that is added to a section later would change the key of every earlier result, though nothing else is computed. Mark it:

    loss_edge: float = Field(0.0, description="...", json_schema_extra=added(neutral=0.0))

It then enters keys only where its value is not the neutral one, with which results are what they were before. Never
change the recorded neutral value: if the default becomes 0.5 later, 0.5 differs from it, enters keys, and stages rerun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

RUNTIME: dict[str, Any] = {"runtime": True}
"""Mark of a field that says where or how fast something runs, never what comes out."""

IDENTITY: dict[str, Any] = {"runtime": True, "identity": "clip.identity"}
"""Mark of a field that says where weights lie. What they are enters keys as `clip.identity`: digest, tag or seed."""

DECODER_IDENTITY: dict[str, Any] = {"runtime": True, "identity": "evaluate.identity"}
"""Mark of a field that says where an exported decoder lies. Its bytes enter keys as `evaluate.identity`."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def added(neutral: Any) -> dict[str, Any]:
    """Return the mark of a field that is younger than results which must stay valid.

    Args:
        neutral: the value with which results are those of the time before the field, as JSON (a list for a tuple).
    """
    return {"neutral": neutral}


def is_runtime(field: FieldInfo) -> bool:
    """Whether a field is marked as runtime: it changes no result and enters no cache key."""
    return bool(_marks(field).get("runtime"))


def is_identity(field: FieldInfo) -> bool:
    """Whether a field enters cache keys not as it is, but as what it leads to."""
    return "identity" in _marks(field)


def is_neutral(field: FieldInfo, value: Any) -> bool:
    """Whether a field is marked as added later, and a value (as JSON) is the one that stands for its absence."""
    marks = _marks(field)
    return "neutral" in marks and value == marks["neutral"]


def neutral_values(section: type[BaseModel]) -> dict[str, Any]:
    """Return the values that stand for the absence of the fields of a section that were added later, by name."""
    marks = {name: _marks(field) for name, field in section.model_fields.items()}
    return {name: mark["neutral"] for name, mark in marks.items() if "neutral" in mark}


def _marks(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}


def format_reason(detail: ErrorDetails) -> str:
    """Return what pydantic says of a value, in the words of YAML."""
    message = " ".join(str(detail["msg"]).split()).removeprefix("Value error, ")
    message = message.replace("a valid tuple", "a list, such as [a, b]").replace("Tuple should", "the list should")
    return message[:1].lower() + message[1:]
