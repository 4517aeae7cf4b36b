"""The command line without running anything: usage errors, help, and what it does not import."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from split_matching.pipeline import cli
from split_matching.pipeline.cli import main
from split_matching.pipeline.stages import STAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no stage given: expected one of RenderShapes"),
        (["Evaluat"], "unknown stage or verb 'Evaluat': did you mean Evaluate?"),
        (["traindecoder"], "did you mean TrainDecoder?"),
        (["stats"], "did you mean status?"),
        (["help"], "unknown stage or verb 'help': did you mean --help?"),
        (["zzz"], "unknown stage or verb 'zzz': expected one of"),
        (["plan", "Reprot"], "unknown stage 'Reprot': did you mean Report?"),
        (["plan", "status"], "unknown stage 'status': expected one of RenderShapes"),
        (["plan"], "the following arguments are required: STAGE"),
        (["Report", "--wrokers", "2"], "unrecognized arguments: --wrokers 2"),
        (["Report", "--workers", "two"], "argument --workers: 'two': expected a whole number from 1"),
        (["Report", "--workers", "0"], "argument --workers: '0': expected a whole number from 1"),
        (["status", "--artifacts", __file__], "is no folder; expected one, which may not exist yet"),
        (["runs", "--artifacts", "/tmp/\udcff"], "'/tmp/\\udcff' is no text in UTF-8"),
        (["Report", "--artifacts", ""], "argument --artifacts: is empty; expected a folder"),
        (
            ["inspect", "regions", "--image", "a", "--out", "/"],
            "argument --out: / is a folder; expected the name of a file in it",
        ),
        (["export", "--out", "/"], "argument --out: / is a folder"),
        (
            ["predict", "--image", "a", "--classes", "a", "--out", "/etc/passwd"],
            "argument --out: /etc/passwd is a file; expected",
        ),
        (["ablate", "--out", "/etc/passwd"], "argument --out: /etc/passwd is a file; expected a folder"),
        (["gc", "--keep", "x"], "argument --keep: 'x': expected a whole number from 0"),
        (["inspect", "pseudo_masks", "--limit", "1.5"], "argument --limit: '1.5': expected a whole number from 1"),
        (["tune"], "unknown stage or verb 'tune'"),
        (["inspect", "quality", "--out", "x.png"], "inspect quality draws nothing: leave out --out"),
        (["inspect", "features", "--image", "a", "--out", "x.html"], "expected a name that ends in .png"),
        (["inspect", "pseudo_masks", "--out", "x.png"], "the gallery is a page; expected a name that ends in .html"),
        (["Report", "--dataset", "vok"], "voc"),
        (["Report", "--set", "train.stepz=1"], "train.steps"),
        (["Report", "--set", "train.steps"], "train.steps"),
        (["config", "--set-file", "/none.yaml"], "/none.yaml"),
        (["RenderShapes", "--dataset", "voc"], "RenderShapes does not exist for dataset voc"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_missing_data_ends_with_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["Report", "--dataset", "voc", "--set", "clip.weights=random", "--artifacts", str(tmp_path)]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    [log] = tmp_path.rglob("*.*")
    assert "data.root" in line and line.endswith(f"(log: {log})")
    assert "data.root" in log.read_text() and "Traceback" in log.read_text()


def test_config_prints_what_a_set_file_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "--set", "train.steps=7", "--artifacts", "a: b"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "all.yaml").write_text(text)
    assert main(["config", "--set-file", str(tmp_path / "all.yaml")]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(text)
    assert "steps: 7  # * int >= 1; default 20000; from --set" in text


def test_status_of_an_empty_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert main(["status", "--set", "clip.weights=random", "--artifacts", str(cache)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.lstrip("│├└─ ").split()[:2] for line in lines]
    assert sorted(found) == sorted([stage.__name__, "missing"] for stage in STAGES)
    assert not cache.exists()


def test_verify_of_an_empty_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["verify", "--all", "--artifacts", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"nothing of this config is in {tmp_path}\n"


def test_help_names_every_stage_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(stage.__name__ in text and stage.makes in " ".join(text.split()) for stage in STAGES)
    assert "130 interrupted" in text


@pytest.mark.parametrize("arguments", ["--help", "status --set clip.weights=random --artifacts none", "Evaluat"])
def test_asking_imports_little_and_opens_few_files(arguments: str, tmp_path: Path) -> None:
    """Counts, not seconds: other programs may be running. An import of torch alone is 2,000 modules."""
    code = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, words: opened.append(words[0]) if event == 'open' else None)\n"
        "from split_matching.pipeline.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'open_clip', 'faiss', 'luigi', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 300 < len(sys.modules) < 500, len(sys.modules)\n"
        "assert 300 < len(opened) < 800, len(opened)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], check=True, cwd=tmp_path, env=environment, capture_output=True
    )


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' run_pipeline.py config | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_cache_that_may_not_be_read_is_one_line(monkeypatch, capsys, tmp_path) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "manifest.json"))

    monkeypatch.setattr("split_matching.cache.entry.Entry.state", forbidden)
    assert main(["EmbedText", "--dataset", "shapes", "--artifacts", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "manifest.json: permission denied" in error and "--artifacts DIR" in error


def test_every_help_fits_80_columns_and_its_commands_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = cli.build_parser("split-matching")
    parsers = next(action for action in parser._actions if action.dest == "verb").choices
    texts = {name: member.format_help() for name, member in {"": parser, **parsers}.items()}
    assert not [line for text in texts.values() for line in text.splitlines() if len(line) > 80]
    for name, verb in cli.VERBS.items():
        lines = texts[name].replace("\\\n", "").splitlines()
        commands = [shlex.split(line) for line in lines if line.startswith(f"  {cli.command()} ")]
        assert commands == [shlex.split(f"{cli.command()} {example}") for example in verb.EXAMPLES]
