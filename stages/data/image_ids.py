"""Image ids: a check of those that somebody typed, and some of many, evenly spread."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from split_matching.errors import DataError, did_you_mean


def check_ids_exist(given: Sequence[str], ids: Collection[str], what: str) -> None:
    """Check that image ids exist.

    Args:
        given: ids that somebody typed.
        ids: those that exist.
        what: what these are, e.g. "training images".

    Raises:
        DataError: names the first unknown id, and close ones.
    """
    for image_id in given:
        if image_id not in ids:
            # a number with a digit too few or too many means the same number
            same = [other for other in ids if _without_zeros(other) == _without_zeros(image_id)][:3]
            hint = f"did you mean {' or '.join(same)}?" if same else did_you_mean(image_id, ids, 3)
            hint = hint or f"expected ids such as {', '.join(sorted(ids)[:3])}"
            raise DataError(f"no image {image_id!r} among the {len(ids)} {what}: {hint}")


def choose_evenly(ids: Sequence[str], limit: int) -> list[str]:
    """Return at most `limit` ids, evenly spread over the given ones, in their order; the first is among them."""
    count = min(limit, len(ids))
    return [ids[index * len(ids) // count] for index in range(count)]


def _without_zeros(image_id: str) -> str:
    return re.sub(r"0+(?=\d)", "", image_id)
