"""Raw files that were copied, touched or replaced, through the real command line: what is read again, what reruns."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_matching.pipeline.cli import main
from tests.conftest import VocTree, blocks
from tests.pipeline.test_command_line import TINY

TOUCHED = ["input times of raw files changed"]


class Photographs:
    """A small data set with features in the cache, and the commands that ask about it."""

    def __init__(self, folder: Path, tree: VocTree, capsys: pytest.CaptureFixture[str]) -> None:
        self.tree = tree
        self.cache = folder / "cache"
        self.capsys = capsys

    def call(self, verb: str, *more: str, root: Path | None = None) -> tuple[int, str, str]:
        arguments = ["--dataset", "voc_cached", "--artifacts", str(self.cache), *more]
        code = main([verb, *arguments, "--set", *TINY, f"data.root={root or self.tree.root}"])
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def run(self, root: Path | None = None, *more: str) -> set[str]:
        """Make features; returns the stages that ran."""
        code, out, err = self.call("ExtractFeatures", *more, root=root)
        assert code == 0, err
        return {line.split()[0] for line in out.splitlines() if " ran in " in line}

    def states(self, root: Path | None = None) -> dict[str, tuple[str, list[str]]]:
        _, out, _ = self.call("status", "--json", root=root)
        return {stage["stage"]: (stage["state"], stage["reasons"]) for stage in json.loads(out)["stages"]}

    def written(self) -> dict[Path, int]:
        files = (path for path in self.cache.rglob("*") if path.is_file() and path.suffix != ".log")
        return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture
def photographs(tmp_path: Path, voc_tree: Callable[..., VocTree], capsys: pytest.CaptureFixture[str]) -> Photographs:
    tree = voc_tree(train={"t0": blocks(0, 1), "t1": blocks(2, 16)}, val={"v0": blocks(0, 3)})
    found = Photographs(tmp_path, tree, capsys)
    assert found.run() == {"PrepareDataset", "ExtractFeatures"}
    return found


def test_a_copy_that_keeps_times_is_fresh_at_once(photographs: Photographs, tmp_path: Path) -> None:
    shutil.copytree(photographs.tree.root, tmp_path / "copy")
    before = photographs.written()
    assert photographs.states(tmp_path / "copy")["PrepareDataset"] == ("fresh", [])
    assert photographs.run(tmp_path / "copy") == set()
    assert photographs.written() == before


def test_a_copy_with_other_times_is_compared_once_and_remembered(photographs: Photographs, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photographs.tree.root, copy, copy_function=shutil.copyfile)
    before = photographs.written()
    stands = photographs.states(copy)
    assert stands["PrepareDataset"] == ("stale", TOUCHED)
    assert stands["ExtractFeatures"] == ("stale", ["waits for PrepareDataset"])
    assert photographs.written() == before  # asking changes nothing

    code, out, err = photographs.call("ExtractFeatures", root=copy)
    assert code == 0 and "comparing their contents" in err and " ran in " not in out
    changed = {path for path, time in photographs.written().items() if before.get(path) != time}
    assert {path.parent.parent.name + "/" + path.name for path in changed} == {"dataset/manifest.json"}
    assert photographs.written().keys() == before.keys()

    for root in (copy, photographs.tree.root):  # both are known from now on
        assert photographs.states(root)["ExtractFeatures"] == ("fresh", [])
        code, _, err = photographs.call("ExtractFeatures", root=root)
        assert (code, err) == (0, "")
    assert photographs.call("verify", root=copy)[0] == 0


def write_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path, compress_level=0)  # equal shapes give equal sizes


@pytest.mark.parametrize(
    ("ids", "ran"),
    [((0, 4), {"PrepareDataset"}), ((0, 1), set())],
    ids=["another mask of the same size", "the same mask, written again"],
)
def test_a_replaced_file_of_the_same_size_is_noticed(
    photographs: Photographs, ids: tuple[int, int], ran: set[str]
) -> None:
    path = photographs.tree.mask("t0")
    write_mask(path, blocks(0, 1))
    assert photographs.run() == {"PrepareDataset"}  # and nothing below: features do not depend on masks
    labels = photographs.cache.glob("voc_cached/dataset/*/train.json")
    before = next(labels).read_bytes()
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    write_mask(path, blocks(*ids))
    os.utime(path, ns=(time + 1000, time + 1000))
    assert path.stat().st_size == size
    assert photographs.states()["PrepareDataset"] == ("stale", TOUCHED)
    assert photographs.run() == ran
    after = next(photographs.cache.glob("voc_cached/dataset/*/train.json")).read_bytes()
    assert (after != before) == bool(ran)
    assert photographs.states()["ExtractFeatures"] == ("fresh", [])


def test_a_replaced_image_of_the_same_size_reruns_what_reads_it(photographs: Photographs) -> None:
    path = photographs.tree.image("v0")
    data = bytearray(path.read_bytes())
    data[-40] ^= 1  # inside the compressed pixels: decodes still, to others
    path.write_bytes(data)
    assert photographs.run() == {"PrepareDataset", "ExtractFeatures"}


def test_an_absent_file_is_named_and_not_compared(photographs: Photographs) -> None:
    photographs.tree.mask("v0").unlink()
    code, _, err = photographs.call("ExtractFeatures", "--quiet")
    assert code == 3 and err.count("\n") == 1 and "v0.png: the mask is absent" in err


def test_a_trial_is_made_again_instead(photographs: Photographs) -> None:
    assert photographs.run(None, "--images", "t0,v0") == {"PrepareDataset", "ExtractFeatures"}
    os.utime(photographs.tree.mask("t1"), ns=(1, 1))
    assert photographs.run(None, "--images", "t0,v0") == {"PrepareDataset"}


def test_force_is_obeyed_after_a_comparison(photographs: Photographs) -> None:
    os.utime(photographs.tree.mask("t1"), ns=(1, 1))
    code, out, _ = photographs.call("PrepareDataset", "--force")
    assert code == 0 and "PrepareDataset  ran in " in out


def test_a_manifest_remembers_a_few_copies_only(photographs: Photographs) -> None:
    from split_matching.cache.accept import INPUTS_KEPT, accept_input
    from split_matching.cache.artifact import load_artifact

    (folder,) = photographs.cache.glob("voc_cached/dataset/*")
    for number in range(INPUTS_KEPT + 3):
        accept_input(load_artifact(folder), "times of raw files", str(number))
    known = json.loads((folder / "manifest.json").read_text())["equal_inputs"]["times of raw files"]
    assert len(known) == INPUTS_KEPT and known[-1] == str(INPUTS_KEPT + 2)
