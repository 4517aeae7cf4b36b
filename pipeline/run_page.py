"""The page of all runs: a table whose columns sort, with links to the reports. Readable without script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.files import atomic_write
from split_matching.pipeline.known_runs import Run
from split_matching.pipeline.run_tables import list_differences, shared_differences
from split_matching.pipeline.text import format_size
from split_matching.stages.pages.formats import page_template, read_script

SHOWN = ("hIoU", "mIoU_seen", "mIoU_unseen", "pAcc")
"""Metrics in the order of their columns."""


def write_page(path: Path, runs: Sequence[Run]) -> None:
    """Write the page; links in it are relative to its folder.

    Raises:
        UserError: the file cannot be written.
    """
    script, script_hash = read_script("sortable.js")
    shared = shared_differences(runs)
    rows = [_row(run, path.parent, shared) for run in runs]
    html = page_template("runs.html.j2").render(rows=rows, shared=shared, script=script, script_hash=script_hash)
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(html, encoding="utf-8")


def _row(run: Run, folder: Path, shared: Sequence[str]) -> dict[str, Any]:
    """Return what the template shows of a run."""
    return {
        "key": run.key,
        "name": run.note.name,
        "note": run.note.text,
        "date": run.created[:16].replace("T", " "),
        "dataset": run.dataset,
        "metrics": [run.metrics.get(name) for name in SHOWN],
        "seed": "" if run.seed is None else run.seed,
        "seconds": run.seconds,
        "bytes": run.size,
        "size": format_size(run.size),
        "differs": list_differences(run, shared),
        "report": quote(os.path.relpath(run.report, folder)) if run.report else "",
    }
