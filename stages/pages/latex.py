"""Names in LaTeX."""

from __future__ import annotations

_MARKS = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return text.translate(_MARKS)
