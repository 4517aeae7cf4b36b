"""Writing of tensors to a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from split_matching.cache.files import atomic_write


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file in one step, with the mode of an ordinary new file.

    `safetensors.torch.save_file` would write to a file of its own name, which a kill leaves behind, of mode 0600.

    Args:
        path: the file. Its folder exists.
        tensors: by name, any shapes and dtypes, on any device.
        metadata: texts to keep beside them.

    Raises:
        OSError: the file cannot be written; names it.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, dict(metadata) if metadata else None))
