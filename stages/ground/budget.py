"""A limit on how much memory threads take at the same time: decoded pixels, class scores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Lets threads do small things side by side, and large ones one after another.

    Args:
        limit: how much may be taken at the same time, in any unit: pixels, bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until so much is free, and hold it.

        Args:
            amount: in the unit of the limit; more than the limit waits until it is alone.
        """
        amount = min(amount, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
