"""Text embeddings of class lists: what CLIP is given to read."""

from __future__ import annotations

import torch

from split_matching.configs.class_list import ClassEntry
from split_matching.configs.settings import ClipConfig, TextConfig
from split_matching.model.clip import FrozenClip
from split_matching.stages.ground.class_text import embed_classes

ENTRIES = (ClassEntry(1, "blue plain"), ClassEntry(2, "redstriped", ("red striped",)))


def test_prompts_are_read_in_place_of_names_unless_the_config_says_otherwise() -> None:
    clip = FrozenClip(ClipConfig(model="shapes-vit", weights="random"))
    text = TextConfig(templates=("a {}.",))
    given = embed_classes(clip, ENTRIES, text)
    assert torch.equal(given, clip.encode_classes(["blue plain", "red striped"], ["a {}."]))
    names = embed_classes(clip, ENTRIES, text.model_copy(update={"prompts": False}))
    assert torch.equal(names, clip.encode_classes(["blue plain", "redstriped"], ["a {}."]))
    assert not torch.allclose(given[1], names[1], atol=1e-3)
