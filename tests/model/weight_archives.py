"""Weights of a small CLIP, and files that hold them as others publish them."""

import warnings
from pathlib import Path

import torch

from split_matching.configs.settings import ClipConfig
from split_matching.model.clip import FrozenClip


def from_file(path: Path, name: str = "tiny-clip", **settings: object) -> FrozenClip:
    return FrozenClip(ClipConfig(model=name, weights=str(path), **settings))


def save_archive(path: Path, state: dict[str, torch.Tensor], extra: bool = True) -> None:
    """Write what OpenAI published: a traced half-precision model in a TorchScript archive, with three marks."""

    class Node(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Node()
    for name, value in state.items():
        node = root
        *parents, last = name.split(".")
        for part in parents:
            if part not in node._modules:
                node.add_module(part, Node())
            node = node._modules[part]
        node.register_parameter(last, torch.nn.Parameter(value.half(), requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 20), ("vocab_size", 49408)) if extra else ():
        root.register_buffer(name, torch.tensor(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)
