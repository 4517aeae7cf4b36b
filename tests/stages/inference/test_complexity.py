"""Parameters and operations against counts made by hand."""

import pytest
import torch
from torch import nn

from split_matching.configs.load import load_config
from split_matching.configs.settings import ClipConfig
from split_matching.model.clip import FrozenClip
from split_matching.stages.inference.complexity import count_complexity, count_flops


def test_counts_of_known_layers() -> None:
    linear, conv = nn.Linear(7, 11), nn.Conv2d(3, 5, 2, stride=2)
    assert count_flops(lambda: linear(torch.zeros(13, 7))) == 2 * 13 * 7 * 11
    assert count_flops(lambda: conv(torch.zeros(1, 3, 8, 6))) == 2 * (4 * 3) * 5 * (3 * 2 * 2)


def test_attention_is_counted_on_every_machine() -> None:
    q, k = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 9, 4)
    expected = 2 * 2 * 5 * 9 * 4 * 2  # heads x (queries x keys x width), for the scores and for the mixture
    assert count_flops(lambda: nn.functional.scaled_dot_product_attention(q, k, k)) == expected


@pytest.mark.parametrize("prompts", [0, 3])
def test_tower_is_counted_as_the_formula_of_a_vit(prompts: int) -> None:
    """Per block and token: 4 w^2 for attention's projections and 8 w^2 for the MLP; N^2 w twice for attention."""
    online = ["train.features=online", f"decoder.prompts={prompts}"] if prompts else []
    config = load_config("shapes", overrides=["features.decoder_blocks=[1, 3]", "pseudo_masks.block=1", *online])
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    found = count_complexity(config, clip, 100)  # 12.5 patches
    cells, width = 12, clip.width
    assert found["side"] == cells * clip.patch
    tokens = cells**2 + 1 + prompts
    block = 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)
    stem = 2 * cells**2 * width * 3 * clip.patch**2
    assert found["tower_flops"] == stem + 3 * block  # the fourth block is read by nobody
    native = 8**2 + 1
    whole = 2 * (8**2 * width * 3 * 64 + 4 * (12 * native * width**2 + 2 * native**2 * width) + width * clip.dim)
    assert found["crop_flops"] == whole


def test_parameters_are_those_of_the_trained_file() -> None:
    from split_matching.stages.training.learner import build_decoder

    config = load_config("shapes")
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    found = count_complexity(config, clip, 128)
    decoder = build_decoder(config, clip.width, clip.dim)
    assert found["trained_parameters"] == sum(value.numel() for value in decoder.state_dict().values())
    both = found["frozen_image_parameters"] + found["frozen_text_parameters"]
    assert both == sum(value.numel() for value in clip.model.state_dict().values())


def test_counting_leaves_the_random_state_alone() -> None:
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    state = torch.random.get_rng_state()
    count_complexity(load_config("shapes"), clip, 64)
    assert torch.equal(torch.random.get_rng_state(), state)
