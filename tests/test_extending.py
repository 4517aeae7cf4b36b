"""docs/extending.md on a copy of the checkout: its edits fit, its commands run, and what was fresh remains fresh."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.handmade import TINY

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (?:An? )(.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))

RUN = """
import json, sys
from split_matching.pipeline.cli import main
for words in json.load(sys.stdin):
    print("$", *words[:2], flush=True)
    if code := main(words):
        sys.exit(code)
"""
"""Runs commands in one process: most of the time of one alone is its imports."""


def commands(section: str, data: Path) -> list[list[str]]:
    """The commands of a section as words, on a run of a few steps; the settings of the page come last, and count."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", SECTIONS[section], re.DOTALL)).replace("\\\n", "")
    found = []
    for line in blocks.replace("PATH", str(data)).splitlines():
        words = shlex.split(line.removeprefix("python run_pipeline.py "))
        place = words.index("--dataset")
        found.append([*words[:place], "--set", *TINY, *words[place:]])
    return found


def apply(section: str, checkout: Path) -> None:
    """Do what a section says: copy its files, make its edits."""
    text = SECTIONS[section]
    for name, target in re.findall(r"\[(examples/[\w.-]+)\]\(\1\)(?:; copy it)?\s+to\s+`([^`]+)`", text):
        shutil.copy(ROOT / "docs" / name, checkout / target)
    edited = Path()
    for before, diff in re.findall(r"(.*?)```diff\n(.*?)```", text, re.DOTALL):
        named = re.findall(r"`([\w/]+\.py)`", before)
        edited = checkout / named[-1] if named else edited
        lines = [(line[0], line[1:]) for line in diff.splitlines() if line]
        old = "".join(f"{rest}\n" for sign, rest in lines if sign in " -")
        new = "".join(f"{rest}\n" if rest else "\n" for sign, rest in lines if sign in " +")
        code = edited.read_text(encoding="utf-8")
        assert code.count(old) == 1, f"{edited.name} has {code.count(old)} times:\n{old}"
        edited.write_text(code.replace(old, new), encoding="utf-8")


def run(checkout: Path, words: list[list[str]]) -> list[str]:
    """Run commands in the checkout; returns what each of them prints."""
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=checkout, input=json.dumps(words), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(r"^\$ .*\n", done.stdout, flags=re.MULTILINE)[1:]


def states(output: str) -> dict[str, str]:
    """State of every stage of a run from the output of `status --json`."""
    found = {stage["stage"]: stage["state"] for stage in json.loads(output)["stages"]}
    return {name: state for name, state in found.items() if name != "PretrainClip"}  # the weights are random


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with images and masks side by side."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "classes.txt").write_text("sky\ncat\ndog\n")
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        (root / split).mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 48, 3), ord(name), np.uint8)).save(root / split / f"{name}.jpg")
        mask = np.arange(48) * 3 // 48 * np.ones((32, 1), int)
        Image.fromarray(mask.astype(np.uint8)).save(root / split / f"{name}.png")
    return root


def copy_checkout(folder: Path) -> Path:
    for name in ("cache", "configs", "model", "stages", "pipeline", "split_matching"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_pipeline.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, for all tests that run its commands."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


STATUS = ["status", "--json", "--set", *TINY]
EASY = [name for name in SECTIONS if name != "loss"]


@pytest.fixture(scope="module")
def extended(checkout: Path, pairs: Path) -> None:
    """Runs the project as it is, then the commands of all sections but that of the loss."""
    _, before = run(checkout, [["Report", "--quiet", "--set", *TINY], STATUS])
    assert set(states(before).values()) == {"fresh"}, before
    for section in EASY:
        apply(section, checkout)
    after, *_ = run(checkout, [STATUS, *(words for section in EASY for words in commands(section, pairs))])
    assert [name for name in states(before) if states(after)[name] != "fresh"] == []


def test_page_has_what_people_add() -> None:
    assert list(SECTIONS) == ["stage", "page", "clustering method", "loss", "backbone", "layout of data sets"]


def test_edits_fit_and_keep_the_style_of_the_project(tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path)
    for section in SECTIONS:
        apply(section, copy)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_stage_and_a_page_make_their_files(extended: None, checkout: Path) -> None:
    (table,) = checkout.glob("artifacts/shapes/region_sizes/*/sizes.csv")
    rows = table.read_text().splitlines()
    assert rows[0] == "image,regions,mean_area" and len(rows) == 1 + 4  # training scenes
    assert float(rows[1].split(",")[2]) > 0
    (page,) = checkout.glob("artifacts/shapes/sizes_page/*/sizes.html")
    assert all(row.split(",")[0] in page.read_text() for row in rows[1:])


@pytest.mark.long
def test_a_clustering_method_makes_other_pseudo_masks(extended: None, checkout: Path) -> None:
    manifests = [
        json.loads(path.read_text()) for path in checkout.glob("artifacts/shapes/pseudo_masks/*/manifest.json")
    ]
    assert sorted(manifest["config"]["pseudo_masks"]["method"] for manifest in manifests) == ["multiscale", "ward"]
    assert len({manifest["content"]["train"] for manifest in manifests}) == 2
    (ward,) = (manifest["code"] for manifest in manifests if manifest["config"]["pseudo_masks"]["method"] == "ward")
    assert "stages/candidates/clustering/ward_scipy.py" in ward
    assert "stages/candidates/clustering/multiscale_faiss.py" not in ward


@pytest.mark.long
def test_a_backbone_and_a_layout_are_found_by_name(extended: None, checkout: Path) -> None:
    models = [
        json.loads(path.read_text())["config"]["clip"]["model"]
        for path in checkout.glob("artifacts/shapes/features/*/manifest.json")
    ]
    assert sorted(models) == ["shapes-vit", "tiny-vit"]
    (lists,) = checkout.glob("artifacts/pairs/dataset/*/train.json")
    assert "train.a" in lists.read_text()


@pytest.mark.long
def test_a_loss_with_a_neutral_weight_keeps_every_result(extended: None, checkout: Path, pairs: Path) -> None:
    apply("loss", checkout)
    adopt, train = commands("loss", pairs)
    stale, _, adopted, _ = run(checkout, [STATUS, adopt, STATUS, train])
    assert states(stale)["TrainDecoder"] == "stale" and states(stale)["EmbedRegions"] == "fresh"
    assert {name for name, state in states(adopted).items() if state != "fresh"} == set()
    first = [
        json.loads(path.read_text().splitlines()[0]) for path in checkout.glob("artifacts/shapes/train/*/metrics.jsonl")
    ]
    assert len(first) == 2 and first[0]["loss"] != first[1]["loss"]
