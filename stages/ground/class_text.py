"""Text embeddings of the classes of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from split_matching.configs.class_list import ClassEntry
from split_matching.configs.class_names import prompts_of
from split_matching.configs.settings import TextConfig

if TYPE_CHECKING:
    from torch import Tensor

    from split_matching.model.clip import FrozenClip


def embed_classes(clip: FrozenClip, entries: Sequence[ClassEntry], text: TextConfig) -> Tensor:
    """Embed classes by their prompts, or by their names where they have none; see `FrozenClip.encode_classes`.

    Returns:
        Shape: (len(entries), D), float32, unit length, on the CPU.
    """
    return clip.encode_classes([entry.name for entry in entries], text.templates, prompts_of(entries, text))
