"""What a model answered while a part is scored, kept in the part's journal until that commits.

An answer is named by all that was asked; the journal's key holds what else decides it (model, options, environment).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.engines.base import RequestRejected
from pipelines.engines.text import TokenIds
from pipelines.parts.journal import Journal
from pipelines.signals.base import Row, SignalBase

A = TypeVar("A")
B = TypeVar("B")
K = TypeVar("K")

FORMAT = "answers 1"  # part of the journal's key: a journal in another format is not read
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form(Generic[A]):
    """An answer as bytes, and back, bit for bit."""

    write: Callable[[A], bytes]
    read: Callable[[bytes], A]


def array_form(dtype: str) -> Form[NDArray[Any]]:
    """An array of one dimension. dtype: with its byte order."""
    return Form(
        write=lambda array_N: array_N.astype(dtype, copy=False).tobytes(),
        read=lambda content: np.frombuffer(content, dtype),
    )


INT32, FLOAT32 = array_form("<i4"), array_form("<f4")


class Answers:
    """The answers that one attempt at a part gets. journal: that of the attempt; None keeps none. Thread-safe."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._known = {} if journal is None else journal.read()
        if self._known:
            _LOG.info("%d answers that a model gave to an earlier attempt are taken over", len(self._known))

    def ask(self, name: str, submit: Callable[[], Future[A]], form: Form[A]) -> Future[A]:
        """What an earlier attempt was answered; else the request is made, and kept before anybody knows the answer.

        name: of the request (`request_name`). Errors are not kept: the request may succeed the next time.
        """
        if (journal := self._journal) is None:
            return submit()
        if (content := self._known.get(name)) is not None:
            known: Future[A] = Future()
            known.set_result(form.read(content))
            return known

        def kept(answer: A) -> A:
            journal.add(name, form.write(answer))
            return answer

        return then(submit(), kept)


class AskingSignal(SignalBase):
    """A signal that asks a model through `_answers`, so that a part whose worker was lost pays for no answer twice."""

    _answers: ClassVar[Answers] = Answers()

    def asking(self, answers: Answers) -> Self:
        """The same signal for one attempt at a part, whose answers these are."""
        found = copy.copy(self)
        object.__setattr__(found, "_answers", answers)
        return found


def request_name(token_ids: TokenIds, *more: object) -> str:
    """sha256 over the token ids that a model is given and, as JSON, whatever else tells one request from another."""
    digest = hashlib.sha256(json.dumps(more).encode())
    digest.update(np.asarray(token_ids, "<i4").tobytes())
    return digest.hexdigest()


def then(asked: Future[A], change: Callable[[A], B]) -> Future[B]:
    """What `change` makes of the answer, once that is there."""
    changed: Future[B] = Future()

    def pass_on(done: Future[A]) -> None:
        try:
            changed.set_result(change(done.result()))
        except Exception as error:  # noqa: BLE001 - the reader of the future is told
            changed.set_exception(error)

    asked.add_done_callback(pass_on)
    return changed


def in_turn(ask: Callable[[K], Future[A]], keys: Iterable[K], *, at_once: int) -> Iterator[tuple[K, Future[A]]]:
    """Ask about each key in turn, with at most `at_once` unanswered; each key in order, with its future.

    Each answer frees a place, whichever it is: a slow one holds nobody up. What is asked is let go of once answered.
    """
    places, open_keys = threading.Semaphore(at_once), deque[tuple[K, Future[A]]]()
    for key in keys:
        places.acquire()  # given back by another thread, when an answer is there
        future = ask(key)
        future.add_done_callback(lambda _: places.release())
        open_keys.append((key, future))
        while open_keys and open_keys[0][1].done():
            yield open_keys.popleft()
    yield from open_keys


class Answered(NamedTuple):
    """What became of a request a row. values_N: of the rows that are ok, end to end; status, detail: as a sidecar's."""

    values_N: NDArray[np.float32]
    status: list[str]
    detail: list[str | None]

    @property
    def ok_R(self) -> NDArray[np.bool_]:
        """Which rows were answered."""
        return np.array([status == "ok" for status in self.status], np.bool_)


def answered(asked: Iterable[Row | Future[NDArray[np.float32]]]) -> Answered:
    """Wait for every answer, in order; a Row is that of a rollout for which nothing was asked, and has no values."""
    found: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    rows: list[Row] = []
    for one in asked:
        row = one if isinstance(one, Row) else Row()
        if isinstance(one, Future):
            try:
                found.append(np.asarray(one.result(), np.float32))
            except RequestRejected as rejected:
                row = Row("error", str(rejected))
        rows.append(row)
    return Answered(np.concatenate(found), [row.status for row in rows], [row.detail for row in rows])
