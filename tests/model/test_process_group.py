"""A process that trains alone; several are shown by tests/stages/training/test_parallel.py."""

import torch

from split_matching.model.process_group import ProcessGroup


def test_a_process_alone_has_everything() -> None:
    group, rows = ProcessGroup(), torch.arange(6.0, requires_grad=True).reshape(3, 2)
    assert (group.size, group.rank) == (1, 0)
    assert group.part([4, 5, 6]) == [4, 5, 6] and group.broadcast("x") == "x"
    gathered, first = group.gather_rows(rows)
    assert first == 0 and torch.equal(gathered, rows) and torch.equal(group.sum(rows), rows)
    assert not gathered.requires_grad and not group.sum(rows).requires_grad
    rows.grad = torch.full((3, 2), 0.5)
    group.sum_gradients([rows])
    assert rows.grad.tolist() == [[0.5, 0.5]] * 3
