"""Writing of a shard in the background: images are checked in threads, and written in another.

An image of 7 MB takes 4 ms to check and sum, and 7 ms to write (2 cores of an AMD EPYC); a GPU makes it in less.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from split_matching.cache.shard_writer import PreparedImage, ShardWriter

PREPARING_THREADS = 2  # together as fast as the one that writes


class BackgroundWriter:
    """Adds images to a shard, in the order given, while the caller continues; use it as a context manager.

    The block ends when everything was added; the writer closes the file. After an error nothing more is added, and the
    next `add` or the end of the block raises it.

    Args:
        writer: of the shard, entered.
        ahead: how many images may wait, which bounds the memory.
    """

    def __init__(self, writer: ShardWriter, ahead: int = 16) -> None:
        self._writer = writer
        self._waiting: Queue[Future[PreparedImage] | None] = Queue(ahead)
        self._pool = ThreadPoolExecutor(PREPARING_THREADS)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._error: BaseException | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def add(self, image_id: str, **arrays: NDArray[Any]) -> None:
        """Hand over one image, see `ShardWriter.add`; the arrays must not change any more."""
        if self._error is not None:
            raise self._error
        self._waiting.put(self._pool.submit(self._writer.prepare, image_id, arrays))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = kind is not None
        self._waiting.put(None)
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        if kind is None and self._error is not None:
            raise self._error

    def _write(self) -> None:
        while (image := self._waiting.get()) is not None:  # also after an error, or `add` would wait for ever
            if self._stopped or self._error is not None:
                continue
            try:
                self._writer.append(image.result())
            except BaseException as error:
                self._error = error
