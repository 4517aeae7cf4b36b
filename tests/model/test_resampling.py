"""Resampling in strips, against torch on whole maps."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from split_matching.model.resampling import Resampling, Size


@pytest.fixture
def two_threads() -> Iterator[None]:
    """With one thread torch resamples in another way, which rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("have", "want"),
    [
        ((24, 32), (384, 512)),
        ((96, 128), (94, 125)),
        ((37, 11), (37, 45)),
        ((37, 111), (45, 111)),
        ((37, 11), (45, 12)),
        ((9, 9), (9, 9)),
        ((50, 40), (7, 133)),
        ((2, 3), (1, 200)),
        ((1, 1), (5, 4)),
    ],
)
@pytest.mark.parametrize("pixels", [1, 400, 10**9])
def test_strips_are_the_rows_that_torch_makes(have: Size, want: Size, pixels: int) -> None:
    maps = torch.randn(3, *have, generator=torch.Generator().manual_seed(1))
    whole = F.interpolate(maps[None], want, mode="bilinear", align_corners=False)[0]
    found = torch.full((3, *want), torch.nan)
    for part, take in Resampling(have, want, maps.device).strips(pixels):
        found[:, part] = take(maps)
        assert (part.stop - part.start - 1) * want[1] < max(pixels, 2)
    if sum(want) > 128 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert torch.equal(found, whole)
    assert torch.allclose(found, whole, rtol=3e-7, atol=3e-7)
