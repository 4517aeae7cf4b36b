"""The verbs `runs`, `note` and `diff` on runs that were made by hand."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from split_matching.cache.folders import remove_folder, walk_folders
from split_matching.pipeline.cli import main
from tests.hidden import hidden
from tests.pipeline.made_runs import make_run

Ask = Callable[..., list[str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`ask("runs", ...)` returns the lines that the command prints, its error line if it fails."""

    def run(*words: str) -> list[str]:
        code = main([*words, "--artifacts", str(tmp_path)])
        captured = capsys.readouterr()
        assert bool(code) == bool(captured.err) and captured.err.count("\n") <= 1
        return (captured.err or captured.out).splitlines()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Three runs of shapes, the last one not evaluated, and one of a data set of a user: the cache, and their keys."""
    root = tmp_path_factory.mktemp("cache")
    runs = {
        "mine": make_run(root, dataset="mine", scores=(50.0, 40.0, 30.0, 34.3)),
        "base": make_run(root, scores=(90.04, 80.0, 60.0, 68.57)),
        "short": make_run(root, steps=300, scores=(85.0, 81.0, 50.0, 61.8), report=True),
        "trained": make_run(root, seed=1, steps=50, merge=0.7, scores=None),
    }
    return root, {name: artifact.key for name, artifact in runs.items()}


@pytest.fixture
def keys(made: tuple[Path, dict[str, str]], tmp_path: Path) -> dict[str, str]:
    """The keys of `made`, in a copy of its cache."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return made[1]


def test_a_run_is_a_line(ask: Ask, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ask("note", keys["base"], "the first", "--name", "baseline")
    head, *lines = ask("runs")
    assert head.split() == [
        "key",
        "made",
        "(UTC)",
        "data",
        "set",
        "S",
        "U",
        "h",
        "seed",
        "time",
        "size",
        "differs",
        "in",
    ]
    assert [line.split()[0] for line in lines] == [keys[n][:8] for n in ("trained", "short", "base", "mine")]
    assert lines[1].split()[3:] == [
        "shapes",
        "81.0",
        "50.0",
        "61.8",
        "0",
        "1",
        "min",
        "05",
        "s",
        "200",
        "B",
        "train.steps=300",
    ]
    assert lines[0].endswith("pseudo_masks.merge=0.7, train.steps=50") and " -  " in lines[0]
    assert lines[2].endswith("200 B  baseline") and lines[3].endswith("200 B")


def test_short_lines_have_what_differs_below(ask: Ask, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = ask("runs", "shapes")
    assert max(map(len, lines)) <= 80
    assert lines[2] == "  pseudo_masks.merge=0.7, train.steps=50" and lines[4] == "  train.steps=300"
    assert len(lines) == 6


def test_what_all_runs_differ_in_is_said_once(ask: Ask, keys: dict[str, str]) -> None:
    lines = ask("runs", "--where", "train.steps<400", "train.seed=0")
    assert lines[-1].endswith("train.steps=300")  # of one run
    make = ["runs", "shapes", "--where", "train.steps!=600"]
    assert not [line for line in ask(*make) if line.startswith("all differ in")]  # 300 and 50


def test_runs_that_share_a_difference(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for seed in range(2):
        make_run(tmp_path, seed=seed, steps=300, gamma=seed / 10)
    lines = ask("runs")
    assert lines[-1] == "all differ in: train.steps=300"
    assert lines[1].endswith("evaluate.gamma=0.1") and not lines[2].endswith("300")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["h>65"], ["base"]),
        (["S>=80", "dataset=shapes"], ["short", "base"]),
        (["train.steps=300"], ["short"]),
        (["train.steps=3e2"], ["short"]),
        (["seed!=0"], ["trained"]),
        (["h<=61.8"], ["short", "mine"]),
        (["name=baseline"], ["base"]),
        (["classes.unseen=[cow]"], ["mine"]),
        (["date>2000"], ["trained", "short", "base", "mine"]),
        (["date<2000"], []),
        (["evaluate.gamma = 0"], ["short", "base", "mine"]),  # a training has no gamma
    ],
)
def test_conditions(conditions: list[str], expected: list[str], ask: Ask, keys: dict[str, str]) -> None:
    ask("note", keys["base"], "--name", "baseline")
    found = json.loads("\n".join(ask("runs", "--json", "--where", *conditions)))
    assert [run["key"] for run in found] == [keys[name] for name in expected]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sort", "h"], ["base", "short", "mine", "trained"]),
        (["--sort", "h", "--reverse"], ["mine", "short", "base", "trained"]),
        (["--sort", "train.steps"], ["trained", "short", "base", "mine"]),
        (["--sort", "dataset"], ["mine", "trained", "short", "base"]),
        (["--sort", "time"], ["short", "base", "mine", "trained"]),
        (["--reverse"], ["mine", "base", "short", "trained"]),
    ],
)
def test_order(words: list[str], expected: list[str], ask: Ask, keys: dict[str, str]) -> None:
    found = json.loads("\n".join(ask("runs", "--json", *words)))
    assert [run["key"] for run in found] == [keys[name] for name in expected]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "train.stepz=1"], "no run has 'train.stepz': did you mean train.steps?"),
        (["--where", "zzz=1"], "expected a setting such as train.steps, or name, date"),
        (["--where", "steps"], "--where 'steps': expected NAME=VALUE"),
        (["--where", "h>high"], "--where 'h>high': expected a number after >"),
        (["--sort", "zzz"], "no run has 'zzz'"),
        (["--csv", "--json"], "not allowed with argument"),
        (["vok.yaml"], "vok.yaml"),
    ],
)
def test_wrong_usage(words: list[str], message: str, ask: Ask, keys: dict[str, str]) -> None:
    (line,) = ask("runs", *words)
    assert message in line


def test_an_empty_cache_has_no_runs(ask: Ask, tmp_path: Path) -> None:
    assert ask("runs") == [f"no such run in {tmp_path}"]
    assert ask("runs", "--json") == ["[]"]


def test_runs_that_may_not_be_read_are_a_line_and_the_others_are_listed(
    keys: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an evaluation whose training may not be read, all but that is known."""
    words = ["runs", "--json", "--artifacts", str(tmp_path)]
    trainings = {path.name: path for path in (tmp_path / "shapes/train").iterdir()}
    with hidden(trainings[keys["trained"][:16]]):
        assert main(words) == 1
    out, err = capsys.readouterr()
    assert {run["key"] for run in json.loads(out)} == {keys["mine"], keys["base"], keys["short"]}
    manifest = trainings[keys["trained"][:16]] / "manifest.json"
    assert err == f"warning: cannot read {manifest}: permission denied; check its permissions\n"
    with hidden(tmp_path / "shapes/train"):
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert main(["note", keys["base"][:8], "--name", "a name", "--artifacts", str(tmp_path)]) == 0
        capsys.readouterr()
        assert main(["diff", f"train/{keys['trained'][:8]}", keys["base"][:8], "--artifacts", str(tmp_path)]) == 1
        assert capsys.readouterr().err.startswith(f"error: cannot read {tmp_path}/shapes/train: permission denied")
        assert main(["note", "another", "--artifacts", str(tmp_path)]) == 1
    found = {run["key"]: run["metrics"]["hIoU"] for run in json.loads(out)}
    assert found == {keys["mine"]: 34.3, keys["base"]: 68.57, keys["short"]: 61.8}
    line = f"cannot read {tmp_path}/shapes/train: permission denied; check its permissions"
    assert err == f"warning: {line}\n"
    assert capsys.readouterr().err == f"error: {line}; no other run has the name 'another'\n"


def test_json_and_csv_are_whole_and_unrounded(ask: Ask, keys: dict[str, str]) -> None:
    ask("note", keys["base"], "=1+1", "--name", "baseline")
    found = {run["key"]: run for run in json.loads("\n".join(ask("runs", "--json")))}
    base, trained = found[keys["base"]], found[keys["trained"]]
    assert base["metrics"]["pAcc"] == 90.04 and base["name"] == "baseline" and base["note"] == "=1+1"
    assert base["settings"]["train.steps"] == 600 and base["seconds"] == 65.0 and base["bytes"] == 200
    assert trained["differs"] == {"train.steps": 50, "pseudo_masks.merge": 0.7} and trained["metrics"] == {}
    assert base["command"] and "commit" in base
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO("\n".join(ask("runs", "--csv"))))}
    assert rows[keys["base"]]["pAcc"] == "90.04" and rows[keys["base"]]["note"] == "'=1+1"
    assert (
        rows[keys["trained"]]["hIoU"] == ""
        and rows[keys["trained"]]["differs"] == "pseudo_masks.merge=0.7, train.steps=50"
    )


def test_latex_is_a_table_with_escaped_names(ask: Ask, keys: dict[str, str]) -> None:
    ask("note", keys["base"], "--name", "100 % & c_1")
    lines = ask("runs", "shapes", "--latex", "--sort", "h")
    assert lines[0] == r"\begin{tabular}{llrrrr}" and lines[-1] == r"\end{tabular}"
    assert lines[4] == r"100 \% \& c\_1 & shapes & 90.0 & 80.0 & 60.0 & 68.6 \\"
    assert lines[5] == r"train.steps=300 & shapes & 85.0 & 81.0 & 50.0 & 61.8 \\"


def test_the_page_has_a_row_for_each_run_and_links_to_reports(ask: Ask, keys: dict[str, str], tmp_path: Path) -> None:
    ask("note", keys["base"], "<b>&", "--name", "<script>")
    path = tmp_path / "pages" / "runs.html"
    assert ask("runs", "--html") == [str(tmp_path / "runs.html")] and (tmp_path / "runs.html").is_file()
    assert ask("runs", "--html", str(path)) == [str(path)]
    text = path.read_text()
    assert all(key[:8] in text for key in keys.values())
    (link,) = re.findall(r'<a href="([^"]+)"', text)
    assert (path.parent / link).parent.is_dir() and link.startswith("../shapes/report/")
    assert "&lt;script&gt;" in text and "&lt;b&gt;&amp;" in text and text.count("<script>") == 1


def test_a_note_is_kept_printed_and_removed(ask: Ask, keys: dict[str, str], tmp_path: Path) -> None:
    key = keys["base"]
    place = tmp_path / "shapes" / "evaluate" / key[:16]
    assert ask("note", key[:6]) == [f"{place}: no name: no note"]
    assert ask("note", key[:6], "one") == [f"{place}: no name: one"]
    assert ask("note", key[:6], "--name", "base") == [f"{place}: base: one"]
    assert ask("note", "base", "") == [f"{place}: base: no note"]
    assert ask("note", "base", "--name", "") == [f"{place}: no name: no note"]
    assert "no run in" in ask("note", "base")[0]
    assert "reads as the digits of a key" in ask("note", key, "--name", "bed")[0]
    assert "no run in" in ask("note", "")[0]


def test_a_run_that_was_removed_has_its_name_again_when_it_is_made_again(
    ask: Ask, keys: dict[str, str], tmp_path: Path
) -> None:
    ask("note", keys["mine"], "gone soon", "--name", "mine")
    for folder in walk_folders(tmp_path):  # what `gc` looks at: no notes are among them
        assert folder.kind == "artifact"
        remove_folder(folder)
    assert "no run in" in ask("note", "mine")[0]
    assert make_run(tmp_path, dataset="mine").key == keys["mine"]
    assert ask("note", "mine")[0].endswith(": mine: gone soon")


def test_diff_of_runs_follows_their_sources(ask: Ask, keys: dict[str, str], tmp_path: Path) -> None:
    wide = make_run(tmp_path, merge=0.7, scores=(91.0, 80.0, 62.5, 70.2))
    ask("note", keys["base"], "--name", "base")
    lines = ask("diff", "base", wide.key)
    assert lines[0].startswith("- Evaluate ") and lines[1].startswith("+ Evaluate ")
    assert "  pseudo_masks.merge: 0.85 -> 0.7" in lines
    assert "  Evaluate mIoU_unseen: 60 -> 62.5 (+2.5)" in lines
    assert not [line for line in lines if "mIoU_seen" in line]
    changed = lines[lines.index("stages:") + 1 : lines.index("code: the same") - 1]
    assert [line.split()[0] for line in changed] == ["ClusterPseudoMasks", "TrainDecoder", "Evaluate"]
    assert not [line for line in changed if "the same contents" in line]


def test_diff_of_seeds_names_what_is_shared_nowhere(ask: Ask, keys: dict[str, str], tmp_path: Path) -> None:
    other = make_run(tmp_path, seed=1)
    lines = ask("diff", keys["base"], other.key)
    assert lines[lines.index("settings:") + 1 :][:2] == ["  train.seed: 0 -> 1", ""]
    assert [line.split()[0] for line in lines if " -> " in line and len(line) > 45] == ["TrainDecoder", "Evaluate"]
