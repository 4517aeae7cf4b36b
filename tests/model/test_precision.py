"""Formats of the decoder's products by device."""

import pytest
import torch

from split_matching.model.precision import decoder_dtype, in_dtype


def test_a_cpu_computes_in_float32_unless_told() -> None:
    assert decoder_dtype("auto", "cpu") == torch.float32
    assert decoder_dtype("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.parametrize(("able", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_takes_float16(
    able: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able and not including_emulation)
    assert decoder_dtype("auto", "cuda") == expected
    assert decoder_dtype("float32", "cuda") == torch.float32 and decoder_dtype("float16", "cuda") == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_have_the_format(dtype: torch.dtype) -> None:
    with in_dtype(dtype, "cpu"):
        assert torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype == dtype
