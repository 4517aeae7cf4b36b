"""Code that is edited while a run goes on: what is recorded is what ran."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from split_matching.cache.code import code_of, import_code
from split_matching.errors import UserError
from split_matching.pipeline import plan as plan_module
from tests import toy
from tests.error_lines import error_line
from tests.pipeline.toy_project import Toy

TOTAL = 8 * sum(i * i for i in range(10))


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("module", "old", "new"), [("total", "SCALE *", "3 +"), ("scale", "SCALE = 1", "SCALE = 2")], ids=["own", "lazy"]
)
def test_an_edit_during_a_run_counts_from_the_next_run_on(
    project: Toy, workers: str, module: str, old: str, new: str
) -> None:
    """Of the module of a later stage, and of one that this imports within its function."""
    project.edit_during_run(module, old, new)
    assert project.run("Page", "--workers", workers) == 0
    assert project.total() == str(TOTAL)
    assert project.run("status") == 0
    assert project.state_of("Total").startswith(f"stale (code toy_stages/{module}.py")
    assert project.run("Page", "--workers", workers) == 0
    assert project.ran() == ["Total", "Page"]
    assert project.total() == str(3 + TOTAL if module == "total" else 2 * TOTAL)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_edit_that_is_taken_back_leaves_the_result_of_the_code_that_is_there(project: Toy, workers: str) -> None:
    project.edit_during_run("total", "SCALE *", "3 +")
    assert project.run("Page", "--workers", workers) == 0
    project.edit("total", "3 +", "SCALE *")
    assert project.run("Page") == 0
    assert project.ran() == []
    assert project.total() == str(TOTAL)


def test_a_file_that_was_edited_before_its_import_is_refused(project: Toy) -> None:
    toy.install(project.folder)
    code_of("toy_stages.total")
    project.edit("scale", "SCALE = 1", "SCALE = 2")
    for _ in range(2):
        line = error_line(lambda: import_code("toy_stages.total"), UserError)
        assert line == "toy_stages/scale.py was edited while this run started: run it again"


def test_a_module_that_was_imported_before_keeps_its_fingerprint(project: Toy) -> None:
    """As in an ablation of hours: a later variant imports a file that an earlier one has."""
    toy.install(project.folder)
    before = code_of("toy_stages.total")
    import_code("toy_stages.total")
    project.edit("log", "def trouble", "EDITED = 1\n\ndef trouble")
    assert import_code("toy_stages.total") is importlib.import_module("toy_stages.total")
    import_code("toy_stages.page")
    assert code_of("toy_stages.page")["toy_stages/log.py"] == before["toy_stages/log.py"]


def test_a_template_that_is_edited_while_its_stage_runs_is_refused(
    project: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "toy_stages/page.css"
    template.write_text("old")
    monkeypatch.setattr(plan_module, "CODE_FOLDER", tmp_path)
    monkeypatch.setattr(toy.Page, "files", (template,))
    assert project.run("Total") == 0
    project.edit("page", '    log("page")', "    (Path(__file__).parent / 'page.css').write_text('new')")
    project.edit("page", "from toy_stages", "from pathlib import Path\nfrom toy_stages")
    assert project.run("Page") == 1
    assert project.err[-1].startswith("error: Page: toy_stages/page.css was edited while Page ran: run it again (log: ")
    assert project.run("Page") == 0
