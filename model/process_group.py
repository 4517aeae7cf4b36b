"""The processes that train one model together; one process alone unless torch.distributed was set up before.

Each process works on its part of every batch. What the loss divides by (matched targets, weights) and what it compares
with (the regions of the batch) is that of the whole batch, so gradients are summed, never averaged, and the weights do
not depend on how many processes there are, rounding aside. Source: choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")


class ProcessGroup:
    """This process among those that train together."""

    def __init__(self) -> None:
        self.size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of a batch: neighbours, so that shares in order of rank are the batch in order."""
        count = len(items) // self.size
        return items[self.rank * count : (self.rank + 1) * count]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes, without gradient."""
        if self.size == 1:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """Rows of all processes in order of rank, without gradient.

        Args:
            rows: Shape: (n, D); n may differ between processes.

        Returns:
            Shape: (sum of n, D), and the index of this process's first row.
        """
        if self.size == 1:
            return rows.detach(), 0
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        lengths = [int(count) for count in counts]
        padded = rows.new_zeros(max(lengths), rows.shape[1])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        whole = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
        return whole, sum(lengths[: self.rank])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes, in one transfer.

        Not DistributedDataParallel: that averages, and prompts are used outside the model's forward.
        """
        if self.size == 1:
            return
        chosen = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in chosen]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, total in zip(chosen, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = total.view_as(parameter).clone()

    def broadcast(self, value: Any) -> Any:
        """The first process's value, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]
