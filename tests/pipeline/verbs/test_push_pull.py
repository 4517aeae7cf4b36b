"""The verbs `push` and `pull`, and runs that read through an address: what a colleague made is not made again."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from split_matching.cache.files import write_json
from tests.pipeline.toy_project import Toy


@pytest.fixture
def far(project: Toy) -> tuple[str, str]:
    return "--remote", f"file://{project.folder}/far"


def forget(project: Toy) -> None:
    """Be somebody else, with an empty cache."""
    shutil.rmtree(project.folder / "artifacts")
    project.log()


def test_what_a_colleague_made_is_not_made_again(project: Toy, far: tuple[str, str]) -> None:
    assert project.run("Page") == 0
    page = next((project.folder / "artifacts/shapes/page").glob("*/page.html")).read_bytes()
    assert project.run("push", *far) == 0
    assert [line.split(":")[0] for line in project.out] == ["Numbers", "Listing", "Squares", "Total", "Page"]
    assert "pushed 4 files" in project.out[2]
    assert [line.rpartition(" in ")[0] for line in project.err if line.startswith("Squares")][-1] == "Squares: 4 files"
    assert project.run("push", *far) == 0
    assert all("is there already" in line for line in project.out)
    forget(project)
    assert project.run("Page", *far) == 0
    assert project.log() == [] and not project.ran()
    assert next((project.folder / "artifacts/shapes/page").glob("*/page.html")).read_bytes() == page


def test_a_run_makes_only_what_is_not_there(project: Toy, far: tuple[str, str]) -> None:
    project.run("Page")
    assert project.run("push Numbers Listing Squares", *far) == 0
    forget(project)
    assert project.run("Page", *far) == 0
    assert project.log() == ["total from 0", "page"]
    assert project.run("Page", "--force", *far) == 0
    assert project.log() == ["page"]  # as without an address
    forget(project)
    assert project.run("Page", *far, "--set", "pseudo_masks.k=9") == 0
    assert "square train 0003" in project.log()  # another key


def test_what_is_fresh_needs_no_network(project: Toy) -> None:
    nowhere = ("--remote", "nosuch://x")
    project.run("Listing")
    assert project.run("Page", *nowhere) == 1 and "Protocol not known" in project.err[-1]
    assert "page" not in project.log()  # it ends before it makes what others may have
    assert project.run("Page") == 0
    assert project.run("Page", *nowhere) == 0, project.err
    assert project.run("Page", *nowhere, "--force") == 0, project.err  # nothing else is missing


def test_what_other_code_made_is_not_fetched(project: Toy, far: tuple[str, str]) -> None:
    project.run("Page")
    project.run("push", *far)
    forget(project)
    project.edit("scale", "1", "2")
    assert project.run("Page", *far) == 0
    assert project.log() == ["total from 0", "page"]
    there = {path: path.read_bytes() for path in (project.folder / "far").rglob("*") if path.is_file()}
    assert project.run("push", *far) == 0
    assert ["is there already" in line for line in project.out] == [True, True, True, False, False]
    key = project.newest("total").name
    refusal = (
        f"Total: not pushed, one of other code or inputs is there: to replace it, first remove shapes/total/{key}.json"
    )
    assert refusal in project.out[3]
    assert project.run("push Total", *far) == 3 and refusal in project.err[-1]
    assert project.run(f"push {key}", *far) == 3 and "first remove" in project.err[-1]
    assert {path: path.read_bytes() for path in (project.folder / "far").rglob("*") if path.is_file()} == there
    (project.folder / f"far/shapes/total/{key}.json").unlink()
    assert project.run("push Total", *far) == 0 and "Total: pushed 1 file" in project.out[0]


def test_a_pull_replaces_nothing_by_what_is_stale(project: Toy, far: tuple[str, str]) -> None:
    project.run("Page")
    project.run("push", *far)
    project.edit("scale", "1", "2")
    project.run("Total")
    project.edit("scale", "2", "3")  # now both are stale
    folder = project.newest("total")
    mine = (folder / "manifest.json").read_bytes()
    assert project.run("pull", *far) == 0
    assert "Total: not pulled, it would be stale here (code " in project.out[3] and "scale.py" in project.out[3]
    assert project.run("pull Total", *far) == 3
    assert f"run the stage, or pull it by its key, shapes/total/{folder.name}" in project.err[-1]
    assert project.run(f"pull total/{folder.name}", *far) == 3 and "first remove the folder" in project.err[-1]
    assert (folder / "manifest.json").read_bytes() == mine
    shutil.rmtree(folder)
    assert project.run(f"pull shapes/total/{folder.name}", *far) == 0 and "pulled 1 file" in project.out[0]
    assert project.run(f"pull {folder.name}", *far) == 0 and "is here already" in project.out[0]
    (folder / "total.txt").unlink()
    assert project.run(f"pull {folder.name}", *far) == 0 and "pulled 1 file" in project.out[0]


def test_pull_of_a_stage_and_of_a_key(project: Toy, far: tuple[str, str]) -> None:
    project.run("Page")
    project.run("push", *far)
    key = json.loads((project.newest("total") / "manifest.json").read_text())["key"]
    forget(project)
    assert project.run(f"pull Squares total/{key[:6]}", *far) == 0
    assert "Squares: pulled 4 files" in project.out[0] and "here it is stale" in project.out[0]
    assert "pulled 1 file" in project.out[1]
    assert project.total() == str(int(project.total()))
    assert project.run("pull", *far) == 0
    assert [line.split(",")[0].partition(": ")[2] for line in project.out] == [
        *("pulled 1 file", "pulled 1 file", "is here already", "is here already", "pulled 1 file")
    ]
    assert project.run("Page") == 0 and project.log() == []


def test_a_pull_of_nothing_is_an_error(project: Toy, tmp_path: Path) -> None:
    assert project.run("pull", "--remote", str(tmp_path / "elsewhere")) == 3
    assert "elsewhere: nothing of this config is there: check the address" in project.err[0]


def test_what_cannot_be_done_is_one_line(project: Toy, far: tuple[str, str]) -> None:
    assert project.run("push") == 2 and "--remote" in project.err[-1]
    assert project.run("Page", "--remote", "") == 2 and "runtime.remote" in project.err[-1]
    assert project.run("push Page", *far) == 3 and "run it first" in project.err[-1]
    assert project.run("push", *far) == 0 and project.out == ["nothing is fresh: nothing was pushed"]
    assert project.run("pull Page", *far) == 3 and "push it there first" in project.err[-1]
    assert project.run("pull beef", *far) == 3 and "no artifact" in project.err[-1]
    assert project.run("pull Pagge", *far) == 2 and "did you mean Page?" in project.err[-1]
    assert project.run("Page", "--remote", "nosuch://x") == 1 and "Protocol not known" in project.err[-1]


def test_a_damaged_remote_is_one_line(project: Toy, far: tuple[str, str]) -> None:
    project.run("Page")
    project.run("push", *far)
    forget(project)
    for path in (project.folder / "far" / "files").glob("*/*"):
        path.write_bytes(b"?" * path.stat().st_size)
    assert project.run("pull Page", *far) == 4
    assert "is not as it was written: push it again with --verify" in project.err[-1] and len(project.err) == 1
    assert not list(Path(project.folder / "artifacts").glob("shapes/*/????????????????"))
    assert project.run("Page", *far) == 0
    assert any("is not as it was written" in line and line.endswith("it is made here") for line in project.err)


def test_push_sends_again_what_is_missing_there_and_what_is_altered_if_told(project: Toy, far: tuple[str, str]) -> None:
    project.run("Page")
    project.run("push", *far)
    files = sorted((project.folder / "far" / "files").glob("*/*"))
    whole = {path: path.read_bytes() for path in files}
    files[0].unlink()
    files[1].write_bytes(b"")
    assert project.run("push", *far) == 0
    assert {path: path.read_bytes() for path in files} == whole
    again = re.findall(r"already, (\S+ \w+) of it sent again", "\n".join(project.out))
    assert len(again) == len({path for path in files[:2] if whole[path]})
    files[2].write_bytes(b"?" * len(whole[files[2]]))
    assert project.run("push", *far) == 0 and files[2].read_bytes() != whole[files[2]]
    assert not any("sent again" in line for line in project.out)
    assert project.run("push --verify", *far) == 0
    assert {path: path.read_bytes() for path in files} == whole
    assert sum("sent again (missing or altered there)" in line for line in project.out) == 1
    assert project.run("push --verify", *far) == 0 and not any("sent again" in line for line in project.out)


def test_push_cannot_mend_what_another_run_has_made(project: Toy, far: tuple[str, str]) -> None:
    """Of the same code and inputs, but of other bytes: the first one wins, and its files are not here."""
    project.run("Total")
    project.run("push", *far)
    total = project.newest("total")
    file = next(
        (project.folder / "far" / "files").glob(f"*/{sha256((total / 'total.txt').read_bytes()).hexdigest()[2:]}")
    )
    file.unlink()
    change_result(total, b"another number")
    assert project.run("push Total", *far) == 4
    assert f"({total.name}" not in project.err[-1] and "(total.txt) is missing or altered" in project.err[-1]
    assert project.err[-1].endswith(f"or remove shapes/total/{total.name}.json there") and not file.exists()
    assert project.run("push", *far) == 4
    assert project.out and all("is there already" in line for line in project.out)  # said of those before it


def change_result(folder: Path, content: bytes) -> None:
    """Be a run that made other bytes, as on another machine."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    entry = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    manifest |= {"files": {"total.txt": entry}, "content": {"total.txt": entry["sha256"]}}
    del manifest["digest"]
    write_json(path, manifest)
    (folder / "total.txt").write_bytes(content)
