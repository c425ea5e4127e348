"""What a model answered while a part is scored, kept in the part's journal until that commits.

An answer is named by all that was asked; the journal's key holds what else decides it (model, options, environment).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.parts.journal import Journal
from pipelines.signals.base import SignalBase

A = TypeVar("A")
B = TypeVar("B")

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


def request_name(token_ids: Sequence[int], *more: object) -> str:
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
