"""How long something takes, in words: one way for the command line and for pages."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Return a time with units: "0.42 s", "12.3 s", "4 min 05 s", "2 h 03 min", "3 d 04 h"."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24:02} h"
