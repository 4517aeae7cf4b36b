"""Names of CLIP's tensors as other programs save them, turned into those of OpenAI and open_clip."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

INSIDE = ("state_dict", "model_state_dict", "model", "module", "clip")
"""Keys of a training checkpoint that hold the weights."""

WRAPPERS = ("module", "_orig_mod", "model", "clip", "clip_model")
"""Parts that programs put in front of every name: data-parallel training, torch.compile, Lightning, a larger model."""

SCALE = "logit_scale"
"""The one name that every CLIP has, at its top."""

_MARK = "vision_model.embeddings.class_embedding"
"""A tensor of the CLIPModel of Hugging Face's transformers alone."""

_TRANSFORMERS = (
    (r"vision_model\.embeddings\.class_embedding", r"visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.", r"visual.conv1."),
    (r"vision_model\.embeddings\.position_embedding\.weight", r"visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", r"visual.ln_pre."),
    (r"vision_model\.post_layernorm\.", r"visual.ln_post."),
    (r"vision_model\.encoder\.layers\.", r"visual.transformer.resblocks."),
    (r"text_model\.embeddings\.token_embedding\.", r"token_embedding."),
    (r"text_model\.embeddings\.position_embedding\.weight", r"positional_embedding"),
    (r"text_model\.final_layer_norm\.", r"ln_final."),
    (r"text_model\.encoder\.layers\.", r"transformer.resblocks."),
    (r"self_attn\.out_proj\.", r"attn.out_proj."),
    (r"layer_norm([12])\.", r"ln_\1."),
    (r"mlp\.fc1\.", r"mlp.c_fc."),
    (r"mlp\.fc2\.", r"mlp.c_proj."),
)
"""Parts of names of transformers and of open_clip. Source: the model definitions of both."""


def find_state(found: Any) -> Any:
    """Return the tensors by name inside a checkpoint, however deep; what was given where there are none."""
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return find_state(found[key])
    return found


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of open_clip: without wrappers in front, and with transformers' names replaced.

    A wrapper is taken off where it is in front of the logit scale; names without it stay, to be an error later.
    """
    scale = next((name for name in tensors if name.split(".")[-1] == SCALE), SCALE)
    parts = scale.split(".")[:-1]
    prefix = "".join(f"{part}." for part in parts) if all(part in WRAPPERS for part in parts) else ""
    plain = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return _from_transformers(plain) if _MARK in plain else plain


def _from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a CLIPModel; queries, keys and values become one tensor, and projections are transposed."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue  # a buffer: 0, 1, 2, ...
        if name in ("visual_projection.weight", "text_projection.weight"):
            found["visual.proj" if name[0] == "v" else "text_projection"] = tensor.T.contiguous()
            continue
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    for name in [name for name in found if ".self_attn.q_proj." in name]:
        names = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if all(part in found for part in names):
            joined = name.replace("self_attn.q_proj.", "attn.in_proj_")
            found[joined] = torch.cat([found.pop(part) for part in names])
    return found
