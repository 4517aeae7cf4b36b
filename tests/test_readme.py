"""README.md and docs/ against the project: their commands parse, their Python runs, what they name is there."""

from __future__ import annotations

import functools
import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import split_matching as sm
from split_matching.pipeline import cli, trained_run
from split_matching.pipeline.cli import VERBS, build_parser
from split_matching.pipeline.stages import STAGES

README = Path("README.md")
DOCS = sorted(Path("docs").glob("*.md"))
PAGES = [README, Path("CONTRIBUTING.md"), Path("CHANGELOG.md"), Path("benchmarks/README.md"), *DOCS]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
TEXT = TEXTS[README]

PLACES = r"(?:configs|cache|model|stages|pipeline|split_matching|tests|docs|benchmarks)/"
"""How paths of the repository begin."""


def code_blocks(page: Path, *languages: str) -> list[str]:
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", TEXTS[page], re.DOTALL)


def commands() -> list[str]:
    """What follows the name of the command in the code blocks, continued lines joined and comments cut."""
    found = []
    for page in PAGES:
        if page.name == "extending.md":  # its stages are made there: see test_extending.py
            continue
        for line in "".join(code_blocks(page, "sh", "console")).replace("\\\n", " ").splitlines():
            words = re.split(r"run_pipeline\.py |split-matching ", line, maxsplit=1)[1:]
            found += [command for word in words if (command := re.split(r"\s+#", word)[0]) != "--help"]
    return list(dict.fromkeys(found))


# --- what a reader looks for is there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [stage.__name__ for stage in STAGES] + [*VERBS])
def test_every_stage_and_verb_is_named(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_config_is_named_alone_or_with_its_folder(path: Path) -> None:
    text = TEXTS[Path("docs/configs.md")]
    assert str(path) in text or f"{path.parent}/*.yaml" in text


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("README.md", "Quick start"),
        ("README.md", "Results"),
        ("README.md", "Citation"),
        ("docs/configs.md", "Files"),
        ("docs/peers.md", "How this differs"),
        ("docs/peers.md", "Non-goals"),
    ],
)
def test_sections_that_readers_look_for_are_there(page: str, heading: str) -> None:
    assert f"\n## {heading}\n" in TEXTS[Path(page)]


def test_readme_names_every_page() -> None:
    assert {str(page) for page in PAGES[1:] if f"({page})" not in TEXT} == set()


def test_pages_are_short() -> None:
    assert len(TEXT.splitlines()) <= 250
    assert {str(page): lines for page in DOCS if (lines := len(TEXTS[page].splitlines())) >= 200} == {}


# --- what is named exists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#\s]+)(?:#[^)\s]*)?\)", TEXTS[page])
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_that_are_named_exist(page: Path) -> None:
    """Words in backticks that look like a path here; NAME stands for any name, and globs must match."""
    if page.name == "CHANGELOG.md":  # names what was there once
        return
    text = re.sub(
        r"(\(examples/[\w.-]+\)(?:; copy it)?\s+to\s+)`[^`]+`", r"\1", TEXTS[page]
    )  # files that a reader makes
    words = re.findall(rf"`({PLACES}[\w/.*-]*)`", text)
    missing = [word for word in words if not any(Path().glob(word.rstrip("/").replace("NAME", "*")))]
    assert missing == []


def test_the_tree_shows_every_folder_of_the_code_and_only_what_exists() -> None:
    (tree,) = re.findall(r"```\nrun_pipeline\.py.*?```", TEXT, re.DOTALL)
    found, parents = set(), {0: Path()}
    for line in tree.splitlines()[1:-1]:
        depth = len(line) - len(line.lstrip())
        names = re.split(r"\s{2,}", line.strip())[0].split()
        for name in names:
            found.add(parents[depth] / name)
        parents = {level: path for level, path in parents.items() if level <= depth}
        parents[depth + 2] = parents[depth] / names[0]
    assert {str(path) for path in found if not path.exists() and path != Path("artifacts")} == set()
    folders = {
        path.parent
        for room in ("configs", "cache", "model", "stages", "pipeline")
        for path in Path(room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parent.name != "weights"
    }
    assert {str(folder) for folder in folders - found} == set()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_targets_of_make_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in re.findall(r"(?:`|\n)make ([a-z]+)\b", TEXTS[page]) if name not in targets] == []


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert "\nmake test" in "".join(code_blocks(README, "sh"))
    assert "make test" in Path(".ci/run").read_text(encoding="utf-8").splitlines()


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in Path("split_matching").glob("*.py"))
    for room in ("configs", "cache", "model", "stages", "pipeline"):
        code += "".join(path.read_text(encoding="utf-8") for path in sorted(Path(room).rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code) + Path("Makefile").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", TEXTS[Path("docs/troubleshooting.md")], re.MULTILINE)
    of_the_system = {"no space left on device"}
    assert len(messages) > 20
    assert [message for message in messages if message not in code and message not in of_the_system] == []


# --- numbers are those of their source --------------------------------------------------------------------------------


def rows_of(name: str) -> list[dict[str, object]]:
    return yaml.safe_load(Path(f"configs/published/{name}.yaml").read_text(encoding="utf-8"))["rows"]


def test_published_numbers_are_those_of_the_configs() -> None:
    table = re.findall(r"^\| ([^|]+) \| [A-Z]+ \d{4} \| (.*) \|$", TEXTS[Path("docs/peers.md")], re.MULTILINE)
    expected = []
    for voc, coco in zip(rows_of("voc"), rows_of("coco_stuff"), strict=True):
        assert voc["method"] == coco["method"]
        cells = [
            str(row[name]) if name in row else "-"
            for row in (voc, coco)
            for name in ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU", "source")
        ]
        expected.append((voc["method"], " | ".join(cells)))
    assert table == expected


def rows_of_results(text: str) -> list[list[str]]:
    rows = re.findall(r"^\| ((?:(?:split|single) matching, |training-free CLIP: ).*)\|$", text, re.MULTILINE)
    return [[cell.strip(" *") for cell in row.split("|")] for row in rows]


def test_results_are_the_same_everywhere() -> None:
    """README has columns of both tables of results.md; the report's file has the means of the first one."""
    tables = rows_of_results(TEXTS[Path("docs/results.md")])[:10]
    short, long = tables[:6], {row[0]: row[1:] for row in tables[6:]}
    means = [[float(cell.partition(" ±")[0]) for cell in row[1:5]] for row in short]
    assert means == [[row["pAcc"], row["mIoU_seen"], row["mIoU_unseen"], row["hIoU"]] for row in rows_of("shapes")]
    expected = []
    for name, *cells in short:
        _, seen, unseen, *scores = long.get(name, cells)
        both = " / ".join(cell.partition(" ±")[0] for cell in (seen, unseen))
        expected.append([name, *cells[3:], *scores, both])
    assert rows_of_results(TEXT) == expected


# --- commands and Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    words = [word for word in shlex.split(command) if word != "$L"]
    options, unknown = build_parser().parse_known_args(words)
    assert not unknown and options.verb == words[0]


@pytest.mark.parametrize("path", sorted(Path("notebooks").glob("*.ipynb")), ids=str)
def test_commands_of_notebooks_parse(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    for line in lines:
        if line.startswith("!python run_pipeline.py "):
            words = shlex.split(line.partition(".py ")[2].replace("{image_id}", "a"), comments=True)
            options, unknown = build_parser().parse_known_args(words)
            assert not unknown and options.verb == words[0]


def test_commands_are_found() -> None:
    assert len(commands()) > 40


@pytest.fixture
def user_folder(tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run, a photo and an exported decoder; "shapes" means the run of a few steps."""
    settings = [f"runtime.artifacts={tiny_run[1]}", *tiny_run[3:]]
    assert cli.main(["export", *tiny_run, "--out", str(tmp_path / "decoder.safetensors")]) == 0
    load_segmenter, load_config = trained_run.load_segmenter, trained_run.load_config
    monkeypatch.setattr(trained_run, "load_segmenter", functools.partial(load_segmenter, overrides=settings))
    load_run = functools.partial(trained_run.load_run, overrides=settings)
    monkeypatch.setattr("split_matching.pipeline.api.load_run", load_run)
    monkeypatch.setattr("split_matching.configs.load.load_config", functools.partial(load_config, overrides=settings))
    (tmp_path / "artifacts").symlink_to(tiny_run[1])
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_python_of_the_readme_runs(user_folder: Path) -> None:
    (code,) = code_blocks(README, "python")
    names: dict[str, object] = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert printed.getvalue().startswith("(40, 60) [")
    assert len([line for line in code.splitlines() if line]) <= 5


@pytest.mark.slow
def test_python_of_the_docs_runs(user_folder: Path) -> None:
    key = sm.load_run("shapes").artifacts["pseudo_masks"].path.name
    names: dict[str, object] = {}
    with redirect_stdout(io.StringIO()) as printed:
        for code in code_blocks(Path("docs/python.md"), "python"):
            exec(code.replace("<key>", key), names)
    assert "'Evaluate': 'fresh'" in printed.getvalue()
    assert np.array_equal(names["first"], names["labels"])  # type: ignore[arg-type]
