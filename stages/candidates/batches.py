"""Group images that can share one call: those of equal shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def equal_batches(keys: Sequence[Hashable], size: int) -> list[list[int]]:
    """Group the places of equal keys.

    Args:
        keys: what must be equal within a batch, e.g. the shapes of images.
        size: most places a batch.

    Returns:
        Batches of places, each in rising order; each place is in one batch.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        groups[key].append(place)
    return [members[first : first + size] for members in groups.values() for first in range(0, len(members), size)]
