"""Tab completion in a real bash, and the options that every verb has."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from split_matching.configs.load import known_datasets
from split_matching.pipeline.cli import VERBS, build_parser, main
from split_matching.pipeline.completion import completion_script
from split_matching.pipeline.stages import STAGES


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "split-matching"
    path.write_text(completion_script(build_parser("split-matching"), "bash"))
    return path


def complete(script: Path, line: str) -> set[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    code = f"source '{script}'; COMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)}); COMP_CWORD={len(words) - 1}; "
    code += '$(complete -p split-matching | sed "s/.*-F \\([^ ]*\\).*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=20)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("split-matching con", {"config"}),
        ("split-matching Clu", {"ClusterPseudoMasks"}),
        ("split-matching Report --dataset co", {"coco_stuff", "coco_stuff_cached"}),
        ("split-matching Report --workers 2 --set train.log", {"train.log_every"}),
        ("split-matching Report --set train.steps=1 pseudo_masks.it", {"pseudo_masks.iterations"}),
        ("split-matching plan Eva", {"Evaluate"}),
        ("split-matching adopt EmbedText Eva", {"Evaluate"}),
        ("split-matching push EmbedText Eva", {"Evaluate"}),
        ("split-matching pull Clu", {"ClusterPseudoMasks"}),
        ("split-matching inspect pre", {"predictions"}),
        ("split-matching config train.lo", {"train.log_every", "train.loss_class", "train.loss_mask", "train.loss_dice",
                                           "train.loss_cosine", "train.loss_nce", "train.loss_quality"}),
        ("split-matching status --js", {"--json"}),
    ],
)  # fmt: skip
def test_bash_completes(script: Path, line: str, offered: set[str]) -> None:
    assert complete(script, line) == offered


def test_bash_completes_files(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert complete(script, "split-matching Report --set-file mi") == {"mine.yaml"}


def test_zsh_and_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "zsh"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.startswith("#compdef split-matching")
    assert all(f"({' '.join(known_datasets())})" in line for line in text.splitlines() if '"--dataset[' in line)
    assert main(["--print-completion", "fish"]) == 2
    assert "argument --print-completion: 'fish': expected one of 'bash', 'zsh'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert lines[0].startswith("split-matching ") and lines[1].startswith("python 3.")
    assert any(line.startswith("torch ") for line in lines)


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    [action] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def options(name: str) -> set[str]:
    return {option for action in parsers()[name]._actions for option in action.option_strings}


def test_options_are_where_they_mean_something() -> None:
    """Workers and schedulers where stages run, a device where CLIP or a decoder computes."""
    stages = {stage.__name__ for stage in STAGES}
    having = {
        option: {name for name in parsers() if option in options(name)}
        for option in ("--workers", "--scheduler", "--device", "--images", "--set", "--set-file", "--variants")
    }
    assert having["--workers"] == having["--scheduler"] == {*stages, "ablate"}
    computing = stages - {"RenderShapes", "PretrainClip", "PrepareDataset"}
    assert having["--device"] == {*computing, "ablate", "inspect", "predict"}
    assert having["--variants"] == {"ablate", "gc"}
    assert having["--set"] == having["--set-file"] >= {*stages, "status", "plan", "config", "gc", "ablate"}
    assert not having["--images"] & {"gc", "check-data", "ablate"}


@pytest.mark.parametrize("option", ["--set", "--set-file", "--images", "--image", "--artifacts", "--dataset", "--out"])
def test_an_option_means_one_thing(option: str) -> None:
    """The same words in every help; but what --out writes differs; --image is an id, or paths of your own images."""
    helps = {
        str(action.help)
        for parser in parsers().values()
        for action in parser._actions
        if option in action.option_strings
    }
    assert len(helps) == (2 if option == "--image" else 1) or option == "--out"


def test_no_option_is_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """`--image` would else be `--images` in a verb that has only that."""
    assert main(["status", "--image", "a"]) == 2
    assert "unrecognized arguments: --image a" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*(stage.__name__ for stage in STAGES), *VERBS])
def test_examples_are_of_the_verb_and_parse(name: str) -> None:
    lines = str(parsers()[name].epilog).partition("example")[2].splitlines()[1:]
    commands = [line.split("run_pipeline.py ")[-1].split(" > ")[0] for line in lines]
    assert commands and all(command.startswith(f"{name} ") or command == name for command in commands)
    for command in commands:
        parsed, unknown = build_parser().parse_known_args(shlex.split(command))
        assert parsed.verb == name and not unknown
