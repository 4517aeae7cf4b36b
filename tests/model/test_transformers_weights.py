"""Weights of Hugging Face's CLIPModel: the names that it saves, and embeddings as its own definition computes them."""

from __future__ import annotations

import math
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from split_matching.configs.settings import ClipConfig
from split_matching.model.clip_weights import create_open_clip

State = dict[str, Tensor]

TOP = """
logit_scale
text_model.embeddings.token_embedding.weight 49408 16
text_model.embeddings.position_embedding.weight 20 16
text_model.final_layer_norm.weight 16
text_model.final_layer_norm.bias 16
vision_model.embeddings.class_embedding 64
vision_model.embeddings.patch_embedding.weight 64 3 8 8
vision_model.embeddings.position_embedding.weight 17 64
vision_model.pre_layrnorm.weight 64
vision_model.pre_layrnorm.bias 64
vision_model.post_layernorm.weight 64
vision_model.post_layernorm.bias 64
visual_projection.weight 24 64
text_projection.weight 24 16
"""
LAYER = """
self_attn.k_proj.weight {0} {0}
self_attn.k_proj.bias {0}
self_attn.v_proj.weight {0} {0}
self_attn.v_proj.bias {0}
self_attn.q_proj.weight {0} {0}
self_attn.q_proj.bias {0}
self_attn.out_proj.weight {0} {0}
self_attn.out_proj.bias {0}
layer_norm1.weight {0}
layer_norm1.bias {0}
mlp.fc1.weight {1} {0}
mlp.fc1.bias {1}
mlp.fc2.weight {0} {1}
mlp.fc2.bias {0}
layer_norm2.weight {0}
layer_norm2.bias {0}
"""
"""What `CLIPModel.state_dict()` of transformers 5.24 has, for the sizes of tiny-clip: 1 text layer, 2 visual ones."""

LAYERS = (
    ("text_model.encoder.layers.0", 16),
    ("vision_model.encoder.layers.0", 64),
    ("vision_model.encoder.layers.1", 64),
)


def random_state() -> State:
    rows = [line.split() for line in TOP.split("\n") if line]
    for prefix, width in LAYERS:
        lines = LAYER.format(width, 4 * width).split("\n")
        rows += [f"{prefix}.{line}".split() for line in lines if line]
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn([int(n) for n in sizes], generator=draw) / 6 for name, *sizes in rows}
    return state | {"logit_scale": torch.tensor(4.6)}


def layer(x: Tensor, state: State, name: str, heads: int, causal: bool) -> Tensor:
    """One encoder layer. Source: `CLIPEncoderLayer`, with QuickGELU."""

    def linear(y: Tensor, part: str) -> Tensor:
        return F.linear(y, state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    def norm(y: Tensor, part: str) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    y, width = norm(x, "layer_norm1"), x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        q, k, v = (linear(y, f"self_attn.{part}_proj")[..., own] for part in "qkv")
        scores = q @ k.transpose(-1, -2) / math.sqrt(width)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1) > 0, -math.inf)
        mixed.append(scores.softmax(-1) @ v)
    x = x + linear(torch.cat(mixed, -1), "self_attn.out_proj")
    y = linear(norm(x, "layer_norm2"), "mlp.fc1")
    return x + linear(y * (1.702 * y).sigmoid(), "mlp.fc2")


def image_features(pixels: Tensor, state: State) -> Tensor:
    """Source: `CLIPModel.get_image_features`."""
    top = "vision_model."
    x = F.conv2d(pixels, state[f"{top}embeddings.patch_embedding.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{top}embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = x + state[f"{top}embeddings.position_embedding.weight"]
    x = F.layer_norm(x, (64,), state[f"{top}pre_layrnorm.weight"], state[f"{top}pre_layrnorm.bias"])
    for number in range(2):
        x = layer(x, state, f"{top}encoder.layers.{number}", heads=2, causal=False)
    x = F.layer_norm(x[:, 0], (64,), state[f"{top}post_layernorm.weight"], state[f"{top}post_layernorm.bias"])
    return x @ state["visual_projection.weight"].T


def text_features(tokens: Tensor, state: State) -> Tensor:
    """Source: `CLIPModel.get_text_features`; the last token of a text has the largest number."""
    top = "text_model."
    x = state[f"{top}embeddings.token_embedding.weight"][tokens]
    x = layer(x + state[f"{top}embeddings.position_embedding.weight"], state, f"{top}encoder.layers.0", 2, causal=True)
    x = F.layer_norm(x, (16,), state[f"{top}final_layer_norm.weight"], state[f"{top}final_layer_norm.bias"])
    return x[range(len(x)), tokens.argmax(-1)] @ state["text_projection.weight"].T


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@torch.no_grad()
def test_embeddings_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Run once against transformers 5.24 itself too, on a random model: the largest difference was 7e-7."""
    state = random_state()
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    model = create_open_clip(ClipConfig(model="tiny-clip", weights=str(tmp_path / name), quick_gelu=True))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = open_clip.tokenize(["a photo of a dog.", "red checked"], 20)
    for found, expected in (
        (model.encode_image(pixels), image_features(pixels, state)),
        (model.encode_text(tokens), text_features(tokens, state)),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert expected.abs().mean() > 0.05
