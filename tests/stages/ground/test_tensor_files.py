"""Weights files: the bytes of safetensors, written in one step with an ordinary mode."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from split_matching.stages.ground.tensor_files import write_tensors

ROOT = Path(__file__).parents[3]
TENSORS = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.ones(2, dtype=torch.float16)}


def test_file_is_the_one_of_safetensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "own", TENSORS, {"about": "x"})
    save_file({name: value.contiguous() for name, value in TENSORS.items()}, tmp_path / "other", {"about": "x"})
    assert (tmp_path / "own").read_bytes() == (tmp_path / "other").read_bytes()
    assert load_file(tmp_path / "own")["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
    with safe_open(tmp_path / "own", framework="pt") as file:
        assert file.metadata() == {"about": "x"}


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_mode_is_that_of_a_new_file(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        write_tensors(tmp_path / "w", TENSORS)
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o666 & ~umask


def test_a_kill_leaves_only_a_file_that_the_next_build_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*arguments: object) -> bytes:
        [name] = {path.name for path in tmp_path.iterdir()} - {"w"}
        assert name.startswith(".") and name.endswith(".tmp")  # see `cache.files.remove_temporary_files`
        raise OSError(28, "No space left on device")

    (tmp_path / "w").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", look)
    with pytest.raises(OSError, match="No space"):
        write_tensors(tmp_path / "w", TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_nothing_else_writes_such_files() -> None:
    files = [path for room in ("model", "stages", "pipeline", "cache") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if "save_file(" in path.read_text()] == []
