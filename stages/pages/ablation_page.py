"""The page of an ablation: the tables of many runs with a plot each. One self-contained HTML file, as the report is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from split_matching.stages.pages import figures
from split_matching.stages.pages.comparison import Comparison
from split_matching.stages.pages.report import page_template
from split_matching.stages.pages.tables import Section, Table, cells, headings, shown_facts


def render_page(table: Table, comparisons: Sequence[Comparison] = ()) -> str:
    """Return the HTML page of a table; equal tables give equal text.

    Args:
        table: as built from the runs; names and messages in it are escaped.
        comparisons: images as the variants see them.
    """
    page = {
        "table": table,
        "sections": [_section(section) for section in table.sections],
        "facts": shown_facts(table),
        "comparisons": comparisons,
        "seconds": table.facts.get("seconds"),
    }
    return page_template("ablation.html.j2").render(page)


def _section(section: Section) -> dict[str, Any]:
    values = {row.variant: row.metrics["hIoU"].values for row in section.rows}
    uri = figures.intervals(values, title="hIoU by variant", xlabel="hIoU, percent") if values else ""
    per_seed = [(row.variant, row.metrics["hIoU"].values) for row in section.rows]
    return {
        "name": section.name,
        "title": section.title,
        "headings": headings(section),
        "rows": [cells(section, row) for row in section.rows],
        "uri": uri,
        "per_seed": per_seed,
    }
