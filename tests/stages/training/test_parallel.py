"""Training shared by several processes gives the weights of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from split_matching.errors import ConfigError
from split_matching.model.losses import nce_loss
from split_matching.model.process_group import ProcessGroup
from tests.handmade import Chain

# four images a step, so that two processes have two each
SETTINGS = (
    *("train.batch=4", "train.steps=8", "train.lr=5e-5", "train.checkpoint_every=3", "shapes.train_scenes=9"),
    *("train.validate_every=4", "train.validate_images=3"),
)
PROCESS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from tests.handmade import Chain, Folder
from split_matching.stages.training import train
torch.set_num_threads(1)
dist.init_process_group("gloo")
base, stop = Path(sys.argv[2]), int(sys.argv[3])
chain = Chain(base, *sys.argv[4:], root=base / "shapes")
for name in ("features", "pseudo_masks", "regions", "text"):
    chain.inputs[name] = Folder(base / name)
def progress(done, total):
    if done == stop:
        dist.destroy_process_group()
        raise SystemExit
chain.whole(train, "shared", progress=progress)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("parallel"), *SETTINGS).to_regions()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def train_shared(chain: Chain, count: int, stop: int) -> None:
    root, port = Path(__file__).parents[3], str(free_port())
    processes = []
    for rank in range(count):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROCESS, str(root), str(chain.base), str(stop), *SETTINGS]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, errors


@pytest.mark.long
def test_two_processes_give_the_weights_of_one(chain: Chain) -> None:
    """Interrupted after a checkpoint and resumed, too: the first process hands its state to the other."""
    alone = load_file(chain.train() / "weights.safetensors")
    lines = [json.loads(line) for line in (chain.folder("train") / "metrics.jsonl").read_text().splitlines()]
    train_shared(chain, 2, stop=5)
    assert not (chain.folder("shared") / "weights.safetensors").exists()
    train_shared(chain, 2, stop=0)
    shared = load_file(chain.folder("shared") / "weights.safetensors")
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        assert torch.allclose(value, shared[name], atol=1e-5, rtol=0), (name, (value - shared[name]).abs().max())
    # Adam forgives gradients of a wrong scale; their norm does not
    for line, other in zip(lines, (chain.folder("shared") / "metrics.jsonl").read_text().splitlines(), strict=True):
        assert json.loads(other) == pytest.approx(line, rel=1e-3, abs=1e-4)
    # two and one of the held-out images: counts are added up, and a cell or two may fall on the other side
    measured = [(chain.folder(name) / "validation.jsonl").read_text().splitlines() for name in ("train", "shared")]
    for line, other in zip(*measured, strict=True):
        assert json.loads(other) == pytest.approx(json.loads(line), abs=0.5)
    assert len(measured[0]) == 2 and (chain.folder("shared") / "best.safetensors").is_file()


def test_a_batch_that_cannot_be_shared_is_rejected(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_initialized", True), ("get_world_size", 3), ("get_rank", 0)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(ConfigError, match=r"^train\.batch 4 cannot be shared evenly by 3 processes$"):
        chain.train()


def test_shares_in_order_are_the_batch() -> None:
    group, parts = ProcessGroup(), []
    group.size = 3
    for group.rank in range(3):
        parts.extend(group.part(range(6)))
    assert parts == list(range(6))


def test_nce_of_parts_adds_up_to_that_of_the_whole() -> None:
    rows = torch.nn.functional.normalize(torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    predicted, target = rows[0], rows[1]
    target[3] = target[1]  # the same thing twice, in different parts
    whole = nce_loss(predicted, target, 0.1, 0.9)
    parts = [nce_loss(predicted[a:b], target[a:b], 0.1, 0.9, target, a) for a, b in ((0, 3), (3, 7))]
    assert np.isclose(float(sum(parts)), float(whole), rtol=1e-6)
