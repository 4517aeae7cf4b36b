"""Image ids that somebody typed: those that do not exist are refused with the ones that were probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from split_matching.errors import DataError


def refuse_unknown(asked: Sequence[str], ids: Collection[str], what: str) -> None:
    """Refuse ids that do not exist.

    Args:
        asked: ids that were typed.
        ids: those that exist.
        what: what these are, e.g. "training images".

    Raises:
        DataError: names the first unknown id, and close ones.
    """
    for image_id in asked:
        if image_id not in ids:
            # a number with a digit too few or too many means the same number
            close = [other for other in ids if _unpadded(other) == _unpadded(image_id)][:3]
            close = close or difflib.get_close_matches(image_id, ids, 3, 0.5) or sorted(ids)[:3]
            raise DataError(f"no image {image_id!r} among the {len(ids)} {what}: did you mean {' or '.join(close)}?")


def _unpadded(image_id: str) -> str:
    return re.sub(r"0+(?=\d)", "", image_id)
