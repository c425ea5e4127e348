"""What crosses the line between a verifier pool and its children: calls as columns, answers by a board.

Calls go over as one buffer a column of texts, so that no text becomes an object of the parent. A child answers a batch
in one message; until that is sent each answer stands on a board of shared memory, where the parent counts them, and
finds them when the child has died or had to be killed. Stdlib only: every child imports this.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, overload

BOARD_BYTES = 1 << 20
_DECODED_BYTES = 1 << 20  # of texts that are decoded together
# Bytes on the board, how many answers the child has sent, and last, for then the rest is there, how many it has given:
# numbers of 8 bytes, each written by one store. struct would write zeros over all of them first.
_HEAD_BYTES = 24


class Texts(Sequence[str]):
    """Texts as one buffer of UTF-8 and where each begins in it; a slice is a view, and pickles with its own bytes.

    content: bytes-like. starts: int32 or int64, one more than there are texts, as Arrow's offsets are.
    """

    def __init__(self, content: bytes | memoryview, starts: array[int] | memoryview) -> None:
        self._content, self._starts = content, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return Texts(self._content, self._starts[start : max(start, stop) + 1])
        if index < 0:
            raise IndexError(index)
        return str(self._content[self._starts[index] : self._starts[index + 1]], "utf-8")

    def __reduce__(self) -> tuple[Any, ...]:
        first, kind = self._starts[0], "q" if memoryview(self._starts).itemsize == 8 else "i"
        return _texts, (bytes(self._content[first : self._starts[-1]]), bytes(self._starts), kind, first)


def _texts(content: bytes, starts: bytes, kind: str, first: int) -> Sequence[str]:
    """The texts of the other side; a plain list, which is faster, of the usual batch: short, and a byte a character."""
    found = array(kind, starts)
    if first:
        found = array(kind, (start - first for start in found))
    if len(content) > _DECODED_BYTES or not content.isascii():
        return Texts(content, found)
    whole = content.decode("ascii")
    return [whole[start:end] for start, end in pairwise(found)]


class Columns(Sequence[tuple[Any, ...]]):
    """Calls whose arguments are columns, each a Sequence that can be sliced; they all have one value a call."""

    def __init__(self, *columns: Sequence[Any]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Columns: ...
    def __getitem__(self, index: int | slice) -> tuple[Any, ...] | Columns:
        if isinstance(index, slice):
            return Columns(*(column[index] for column in self._columns))
        return tuple([column[index] for column in self._columns])

    def __reduce__(self) -> tuple[Any, ...]:
        return _calls, tuple(self._columns)


def _calls(*columns: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
    """The calls of the other side, a plain list where the columns have become lists."""
    return list(zip(*columns, strict=True)) if all(isinstance(one, list) for one in columns) else Columns(*columns)


class Board:
    """Shared memory on which a child puts each answer of a batch, in pickles one after the other, until it is sent."""

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, BOARD_BYTES)
        self._head = memoryview(self._memory).cast("Q")
        self._answered, self._used = 0, _HEAD_BYTES

    def put(self, answer: object) -> bool:
        """Whether there was room; what is put is there even if this process ends now."""
        content = pickle.dumps(answer)
        end = self._used + len(content)
        if end > BOARD_BYTES:
            return False
        self._memory[self._used : end] = content
        self._answered, self._used = self._answered + 1, end
        self._head[0], self._head[2] = end, self._answered
        return True

    def clear(self, *, sent: int = 0) -> None:
        """Nothing stands here any more: a new batch begins, of which so many answers have been sent."""
        self._answered, self._used = sent, _HEAD_BYTES
        self._head[0], self._head[1], self._head[2] = _HEAD_BYTES, sent, sent

    @property
    def answered(self) -> int:
        """How many calls of the batch the child has answered. For the parent."""
        return self._head[2]

    def read(self, *, received: int, answered: int) -> list[Any]:
        """The answers of a batch from number `received` to number `answered`. For the parent, of a child at rest."""
        used, sent = self._head[0], self._head[1]
        stream = io.BytesIO(self._memory[_HEAD_BYTES:used])
        found: list[Any] = []
        while len(found) < answered - sent and stream.tell() < used - _HEAD_BYTES:
            found.append(pickle.load(stream))
        return found[max(0, received - sent) :]

    def close(self) -> None:
        """Give the memory back."""
        self._head.release()
        self._memory.close()


def board_handle() -> int:
    """A file descriptor of memory for one board, of nothing but zeros."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("answers")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.truncate(handle, BOARD_BYTES)
    return handle
