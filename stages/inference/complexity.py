"""What inference costs: parameters and floating-point operations, counted by torch on a forward pass.

The visual tower's pass is made with tensors that have shapes and no values, so that counting takes little time. An
addition and a multiplication are two operations. Source: `torch.utils.flop_counter`, which counts matrix products,
convolutions and attention, and nothing else; the same is customary in the literature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from split_matching.model.clip import FrozenClip
from split_matching.model.query_decoder import QueryDecoder
from split_matching.model.token_encoder import TokenEncoder


def count_flops(work: Callable[[], object]) -> int:
    """Return the operations of some work. Attention is done in plain products, the only form that is always counted."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def count_complexity(config: Any, clip: FrozenClip, side: int) -> dict[str, int]:
    """Count what one square image (or window) costs.

    Args:
        config: reads `decoder`, `features.decoder_blocks`.
        clip: the frozen CLIP.
        side: of the image, pixels; rounded to whole patches.

    Returns:
        `side`: in pixels; `trained_parameters`: of the decoder with its prompts; `frozen_image_parameters` and
        `frozen_text_parameters`: of CLIP; `tower_flops`: of the visual tower up to the last block that the decoder
        reads; `decoder_flops`; `crop_flops`: of one region crop, where fusion embeds them.
    """
    blocks = config.features.decoder_blocks
    with torch.random.fork_rng(devices=[]):
        decoder = QueryDecoder(config.decoder, blocks, clip.width, clip.dim)
    decoder.eval().requires_grad_(False).to(clip.device)
    encoder = TokenEncoder(clip, blocks)
    cells = max(1, round(side / clip.patch))
    valid = torch.ones(1, cells, cells, dtype=torch.bool, device=clip.device)
    maps = [torch.zeros(1, cells, cells, clip.width, device=clip.device) for _ in blocks]
    image_parameters = _count_parameters(clip.visual)
    return {
        "side": cells * clip.patch,
        "trained_parameters": _count_parameters(decoder),
        "frozen_image_parameters": image_parameters,
        "frozen_text_parameters": _count_parameters(clip.model) - image_parameters,
        "tower_flops": count_flops(lambda: _run_tower(encoder, cells * clip.patch, decoder.prompts)),
        "decoder_flops": count_flops(lambda: decoder(maps, valid)[-1]),
        "crop_flops": count_flops(lambda: _run_crop(clip)),
    }


def _run_tower(encoder: TokenEncoder, side: int, prompts: torch.Tensor | None) -> None:
    """Run the visual tower on one image, without values."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, grid = encoder.clip.tower.embed(torch.zeros(1, 3, side, side, device=encoder.clip.device))
        encoder.through_blocks(x, grid, None, prompts)


def _run_crop(clip: FrozenClip) -> None:
    """Run the embedding of one crop, without values."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, _ = clip.tower.embed(torch.zeros(1, 3, clip.native, clip.native, device=clip.device))
        for index in range(clip.depth):
            x = clip.tower.block(index, x)
        clip.tower.pool(x)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
