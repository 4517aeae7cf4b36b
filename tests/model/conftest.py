"""Two small architectures for the tests of the models: a CLIP, and a SigLIP that takes no time to make."""

import json

import open_clip
import pytest
import torch

from split_matching.configs.settings import ClipConfig
from split_matching.model.clip_weights import create_open_clip

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SIGLIP = {
    "embed_dim": 48,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": "vit_tiny_map_test", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 48,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


@pytest.fixture(scope="session", autouse=True)
def small_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Adds tiny-clip, and tiny-map: a SigLIP tower that takes no time to make."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    @register_model
    def vit_tiny_map_test(pretrained: bool = False, **settings: object) -> VisionTransformer:
        fixed = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "class_token": False}
        keep = {name: settings[name] for name in ("num_classes", "global_pool") if name in settings}
        return VisionTransformer(**fixed, **keep)

    folder = tmp_path_factory.mktemp("architectures")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    (folder / "tiny-map.json").write_text(json.dumps(SIGLIP))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="session")
def tiny(small_architectures: None) -> dict[str, torch.Tensor]:
    """Random weights of tiny-clip; a test that changes them copies the dict."""
    return create_open_clip(ClipConfig(model="tiny-clip", weights="random")).state_dict()
