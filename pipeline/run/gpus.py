"""Which GPU a worker uses, where a machine has several.

A worker has a GPU of its own, as long as there are enough. Every task of a run with several workers is a process of its
own. It takes the first GPU that no other process of this user holds, by a lock that ends with the process. With more
workers than GPUs the rest share them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import IO

from split_matching.cache.locks import try_lock

_held: list[IO[str]] = []
"""The lock of this process, open until the process ends."""


def take_gpu(torch: ModuleType, device: str, folder: Path | None = None) -> int | None:
    """Make a GPU the current one of this process.

    Args:
        torch: the module; imported by whoever calls, for the command line does without it.
        device: `runtime.device`.
        folder: of the lock files; None for one in the system's folder of temporary files.

    Returns:
        Its number, or None if there is nothing to choose.
    """
    if device == "cpu" or _held or not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return None
    count = torch.cuda.device_count()
    folder = folder or Path(tempfile.gettempdir()) / f"split-matching-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    # numbers are those that this process sees: runs that see different GPUs keep locks of their own
    visible = "".join(c if c.isalnum() else "-" for c in os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    chosen = os.getpid() % count
    for index in range(count):
        stream = (folder / f"{visible}.{index}").open("w")
        if not try_lock(stream.fileno()):
            stream.close()
            continue
        _held.append(stream)
        chosen = index
        break
    torch.cuda.set_device(chosen)
    return chosen
