"""What a training does with a checkpoint that it finds: continues, begins again and says so, or ends."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from split_matching.stages.training import checkpoint


def write(folder: Path, step: int = 5) -> dict[str, checkpoint.Stateful]:
    model = torch.nn.Linear(2, 2)
    parts: dict[str, checkpoint.Stateful] = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    (folder / "metrics.jsonl").write_text("{}\n")
    checkpoint.save_checkpoint(folder, parts, step)
    return parts


def test_it_says_where_it_continues(tmp_path: Path) -> None:
    parts, said = write(tmp_path), list[str]()
    assert checkpoint.restore_checkpoint(tmp_path, parts, "cpu", said.append) == 5
    assert said == ["continues after step 5"]


def test_without_a_checkpoint_it_says_nothing(tmp_path: Path) -> None:
    said = list[str]()
    assert checkpoint.restore_checkpoint(tmp_path, {}, "cpu", said.append) == 0
    assert said == []


@pytest.mark.parametrize("altered", ["checkpoint.pt", "metrics.jsonl", "no metrics.jsonl"])
def test_what_is_altered_costs_a_restart_that_is_told(tmp_path: Path, altered: str) -> None:
    parts, said = write(tmp_path), list[str]()
    path = tmp_path / altered.removeprefix("no ")
    if altered.startswith("no "):
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert checkpoint.restore_checkpoint(tmp_path, parts, "cpu", said.append) == 0
    assert len(said) == 1 and "cannot be used" in said[0] and "begins again at step 0" in said[0]
    assert (tmp_path / "checkpoint.pt.damaged").exists() and not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "no"),
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
)
def test_what_says_nothing_about_the_file_ends_the_run_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    parts = write(tmp_path)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(checkpoint, "_load", fail)
        checkpoint.restore_checkpoint(tmp_path, parts, "cpu", lambda line: None)
    assert checkpoint.restore_checkpoint(tmp_path, parts, "cpu", lambda line: None) == 5
