"""Arrays on their way to the device."""

import numpy as np
import torch

from split_matching.model.transfer import send


def test_an_array_is_shared_with_the_cpu() -> None:
    array = np.zeros((2, 3), np.float32)
    tensor = send(array, torch.device("cpu"))
    array[1, 2] = 5
    assert tensor.dtype == torch.float32 and tensor.tolist() == [[0, 0, 0], [0, 0, 5]]
