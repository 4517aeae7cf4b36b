"""Number format of the decoder's products, the same in training and in evaluation. Losses are computed in float32."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def decoder_dtype(precision: str, device: str) -> torch.dtype:
    """Return the format of `train.precision` on a device ("cpu" or "cuda").

    `auto` is float32 on a CPU, bfloat16 on a GPU that computes in it, and float16 on an older one.
    """
    if precision == "auto":
        if device == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def in_dtype(dtype: torch.dtype, device: str) -> contextlib.AbstractContextManager[Any]:
    """Context in which products have this format."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)
