"""The page of an ablation: the tables of many runs with a plot each. One self-contained HTML file, as the report is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from split_matching.stages.pages.ablation.comparison import Comparison
from split_matching.stages.pages.ablation.table_text import cells, headings, text_facts
from split_matching.stages.pages.ablation.tables import Table, TableSection
from split_matching.stages.pages.formats import page_template
from split_matching.stages.pages.plots import draw_intervals


def render_page(table: Table, comparisons: Sequence[Comparison] = ()) -> str:
    """Return the HTML page of a table; equal tables give equal text.

    Args:
        table: as built from the runs; names and messages in it are escaped.
        comparisons: images as the variants see them; may be empty.
    """
    page = {
        "table": table,
        "sections": [_describe_section(section) for section in table.sections],
        "facts": text_facts(table),
        "comparisons": comparisons,
        "seconds": table.facts.get("seconds"),
    }
    return page_template("ablation.html.j2").render(page)


def _describe_section(section: TableSection) -> dict[str, Any]:
    values = {row.variant: row.metrics["hIoU"].values for row in section.rows}
    uri = draw_intervals(values, title="hIoU by variant", xlabel="hIoU, percent") if values else ""
    per_repeat = [(row.variant, row.metrics["hIoU"].values) for row in section.rows]
    return {
        "name": section.name,
        "title": section.title,
        "headings": headings(section),
        "rows": [cells(section, row) for row in section.rows],
        "uri": uri,
        "per_repeat": per_repeat,
    }
