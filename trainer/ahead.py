"""Stored parts of a store elsewhere, fetched in the order of their use before anything asks for them.

What is fetched stays as it is stored, compressed, until its part is decoded: a shuffle window's parts, all of which its
first steps need, are in memory when the window before is still being trained on. Data on this machine's disks are not
fetched: the operating system reads those ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from trainer.data import Columns, TrainData

READ_AHEAD_BYTES = 2**28  # beside two decoded windows, which at the default shuffle_tokens take several times as much


class ReadAhead:
    """The parts of one pass, fetched on threads in the order in which they will be taken.

    Of the parts not yet taken, the next one and those within `limit` stored bytes behind it are fetched or in memory.
    """

    def __init__(self, data: TrainData, parts: Sequence[int], *, threads: int, limit: int = READ_AHEAD_BYTES) -> None:
        """parts: every part that will be taken, in that order; one that is taken twice is fetched twice."""
        self._data, self._limit = data, limit
        self._waiting = deque(() if data.is_local else parts)
        self._fetches: deque[tuple[int, Future[Columns]]] = deque()  # with their stored bytes
        self._bytes = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        self._fill()

    def take(self) -> Future[Columns] | None:
        """The next part in the order given, its content on the way; None where all of the data is local."""
        if not self._fetches:
            return None
        size, fetch = self._fetches.popleft()
        self._bytes -= size
        self._fill()
        return fetch

    def _fill(self) -> None:
        while self._waiting:
            size = self._data.stored_bytes(self._waiting[0])
            if self._fetches and self._bytes + size > self._limit:
                return
            self._fetches.append((size, self._pool.submit(self._data.fetch, self._waiting.popleft())))
            self._bytes += size

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
