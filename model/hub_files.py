"""Whether files of a Hugging Face repository are on this machine, or can be downloaded."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT

SECONDS = 5


def is_cached(repository: str, names: Sequence[str]) -> bool:
    """Whether one of some files of a repository is in the local cache."""
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def can_reach_hub() -> bool:
    """Whether the hub is reachable, as far as five seconds can tell."""
    if getproxies():  # a proxy resolves names for us
        return True
    endpoint = urlsplit(ENDPOINT)
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
