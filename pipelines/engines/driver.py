"""One thread that owns a backend; everyone else talks to it through a queue and futures.

A backend (vLLM's LLMEngine, a transformers model, a recording) is single-threaded. `DrivenEngine` makes it an
`Engine`: requests are checked in the caller's thread, go through one queue in order, and are answered on futures. The
driver alone touches the backend. A future is always answered: a result, a `RequestRejected`, or an `EngineDead`.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pass_ops.support.frames import clear_frames
from pipelines.engines.base import (
    EngineAsleep,
    EngineDead,
    EngineOptionError,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    WeightsMismatchError,
)
from pipelines.engines.device import free_cached_memory
from pipelines.engines.memory_errors import death, start_failure
from pipelines.engines.text import TokenIds, lowest_and_highest, stops
from pipelines.models.folder import architecture

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Given tokens to score from position `start` on, logits divided by the temperature."""

    token_ids: TokenIds
    start: int
    temperature: float = 1.0

    def at_one(self) -> Self:
        """Itself, for a backend whose log-probabilities are those of temperature 1. Raises RequestRejected."""
        if self.temperature != 1.0:
            detail = f"only kind transformers scores at temperature {self.temperature}; others do at 1 alone"
            raise RequestRejected("temperature", detail)
        return self


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """Given tokens to classify."""

    token_ids: TokenIds


Request = SampleRequest | ScoreRequest | PoolRequest
Answer = Sample | NDArray[np.float32] | RequestRejected


class Backend(Protocol):
    """What a driver drives. Every method is called on the driver's thread only."""

    tokenizer: Any
    max_model_len: int
    vocab_size: int
    pools: bool  # answers PoolRequests, and only those; else samples and scores

    def add(self, key: int, request: Any) -> None:
        """Take a request in. Raises RequestRejected where it alone is at fault."""

    def step(self) -> Iterable[tuple[int, Answer]]:
        """Work on what was added; the answers that became ready. Any exception is the end of the engine."""

    def drop(self, keys: Collection[int]) -> None:
        """Spend nothing more on these requests, which were added, and answer none of them."""

    def load_weights(self, model: str) -> None:
        """Replace the weights by those of a folder that fits; nothing is in flight. Any exception ends the engine."""

    def sleep(self) -> None:
        """Free the device; nothing is in flight, and `wake` or `close` comes next. Any exception ends the engine."""

    def wake(self, model: str) -> None:
        """Take the device again after `sleep`, with a fitting folder's weights. Any exception ends the engine."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class _Work:
    request: Request
    future: Future[Any]


@dataclass(frozen=True)
class _Order:
    """What the backend does while nothing is in flight: load weights, sleep, wake."""

    carry_out: Callable[[Backend], None]
    future: Future[Any]


class DrivenEngine:
    """An `Engine` around a backend that `start` makes on the driver's own thread.

    The thread is a daemon and closed by atexit: a daemon, because the interpreter waits for other threads before it
    runs atexit. Raises whatever `start` raises.
    """

    def __init__(self, start: Callable[[], Backend], *, model: str, name: str, width: int = 1) -> None:
        self._model = model
        self.width = width
        self._architecture = architecture(model)
        self._name = name
        self._pid = os.getpid()
        self._inbox: queue.SimpleQueue[_Work | _Order | None] = queue.SimpleQueue()
        self._forgotten: queue.SimpleQueue[set[Future[Any]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # orders a submit against the end: whatever got into the inbox is answered
        self._end: EngineDead | None = None
        self._open: dict[int, Future[Any]] = {}  # with the backend; the driver's alone
        self._waiting: deque[_Work | _Order] = deque()  # not yet there; the driver's alone
        self._next_key = 0
        self._ordering = threading.Lock()  # one order at a time: a folder is checked against the one before it
        self._asleep = False
        ready: Future[Backend] = Future()
        self._thread = threading.Thread(target=self._run, args=(start, ready), name=f"engine-{name}", daemon=True)
        try:
            self._thread.start()
            backend = ready.result()
        except BaseException:
            self._closing.set()  # an interrupt: the engine that is still starting ends once it has started
            self._inbox.put(None)
            if ready.done():
                self._thread.join()
            raise
        self.tokenizer: Any = backend.tokenizer
        self.max_model_len: int = backend.max_model_len
        self.vocab_size = backend.vocab_size
        self._pools = backend.pools
        atexit.register(self.close)

    @property
    def dead(self) -> bool:
        """Whether this engine was closed or failed, or belongs to the process this one was forked from."""
        return self._end is not None or os.getpid() != self._pid

    @property
    def in_flight(self) -> int:
        """See `Engine.in_flight`. Counted without a lock: what moves between the queues right now may be missed."""
        return self._inbox.qsize() + len(self._waiting) + len(self._open)

    def submit(self, request: SampleRequest) -> Future[Sample]:
        """See `Engine.submit`. Rejects an empty or too long prompt, ids outside the vocabulary, stops never found."""
        self._check_purpose(pools=False)
        limit = self.max_model_len - 1  # one token at least is sampled
        rejection = self._check_ids(request.prompt_token_ids, limit=limit, reason="prompt_too_long")
        return self._enqueue(request, rejection or self._check_sampling(request.sampling))

    def score(self, token_ids: TokenIds, *, start: int, temperature: float = 1.0) -> Future[NDArray[np.float32]]:
        """See `Engine.score`. Rejects what `submit` rejects, and a start outside 1..len(token_ids)."""
        self._check_purpose(pools=False)
        rejection = self._check_ids(token_ids, limit=self.max_model_len, reason="rollout_too_long")
        if rejection is None and not 1 <= start <= len(token_ids):
            detail = f"start is {start}; the first token has no logprob, so it must be 1 to {len(token_ids)}"
            rejection = RequestRejected("bad_start", detail)
        if rejection is None and start == len(token_ids) and not self.dead:
            nothing: Future[NDArray[np.float32]] = Future()
            nothing.set_result(np.empty(0, dtype=np.float32))
            return nothing
        return self._enqueue(ScoreRequest(token_ids=token_ids, start=start, temperature=temperature), rejection)

    def pool(self, token_ids: TokenIds) -> Future[NDArray[np.float32]]:
        """See `Engine.pool`. Rejects what `score` rejects."""
        self._check_purpose(pools=True)
        rejection = self._check_ids(token_ids, limit=self.max_model_len, reason="rollout_too_long")
        return self._enqueue(PoolRequest(token_ids=token_ids), rejection)

    def drop(self, futures: Iterable[Future[Any]]) -> None:
        """See `Engine.drop`."""
        self._forgotten.put({future for future in futures if not future.cancel()})
        self._inbox.put(None)  # wakes the driver

    @property
    def asleep(self) -> bool:
        """See `Engine.asleep`."""
        return self._asleep

    def load_weights(self, model: str) -> None:
        """See `Engine.load_weights`. Raises WeightsMismatchError, or what is wrong with the folder; neither harms.

        An error while the weights are replaced ends the engine.
        """
        with self._ordering:
            if self._asleep:
                raise EngineAsleep(f"The {self._name} engine is asleep; `wake` gives it the weights of {model}.")
            self._check_architecture(model)
            self._carry_out(lambda backend: backend.load_weights(model))
            self._model = model

    def sleep(self) -> None:
        """See `Engine.sleep`. An error while the device is freed ends the engine."""
        with self._ordering:
            if not self._asleep:
                self._carry_out(self._fall_asleep)

    def wake(self, model: str) -> None:
        """See `Engine.wake`. Raises what `load_weights` raises; an error while it wakes ends the engine."""
        with self._ordering:
            self._check_architecture(model)
            self._carry_out(lambda backend: self._wake(backend, model))
            self._model = model

    def close(self) -> None:
        """See `Engine.close`."""
        if os.getpid() != self._pid:
            return  # the thread and the model stayed in the parent
        self._closing.set()
        self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            atexit.unregister(self.close)

    # --- the caller's side ---------------------------------------------------------------------------------------

    def _check_architecture(self, model: str) -> None:
        if (difference := self._architecture.difference(architecture(model))) is not None:
            raise WeightsMismatchError(
                f"{model} cannot be loaded into the engine that runs {self._model}: {difference}. "
                "Start another engine on it."
            )

    def _carry_out(self, order: Callable[[Backend], None]) -> None:
        """Wait until everything before the order is answered and the order is done. Raises what it raises."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("an engine was ordered about in a future's callback, where it would wait for itself.")
        future: Future[None] = Future()
        self._put(_Order(order, future))
        future.result()

    def _check_purpose(self, *, pools: bool) -> None:
        if pools != self._pools:
            raise EngineOptionError(
                f"{self._model} runs {'pooled' if self._pools else 'to sample'}, so it cannot "
                f"{'classify' if pools else 'sample or score'} tokens; {'set' if pools else 'leave out'} "
                "EngineOptions.pooling."
            )

    def _check_ids(self, token_ids: TokenIds, *, limit: int, reason: str) -> RequestRejected | None:
        if len(token_ids) == 0:
            return RequestRejected("empty_prompt", "there are no tokens to start from")
        if len(token_ids) > limit:
            detail = f"{len(token_ids)} tokens; at most {limit} fit (max_model_len {self.max_model_len})"
            return RequestRejected(reason, detail)
        low, high = lowest_and_highest(token_ids)
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            return RequestRejected("bad_token_ids", f"token id {wrong}; the model has 0 to {self.vocab_size - 1}")
        return None

    def _check_sampling(self, sampling: Sampling) -> RequestRejected | None:
        try:
            stops(self.tokenizer, sampling.stop, sampling.keep_special_tokens)
        except EngineOptionError as error:
            return RequestRejected("bad_sampling", str(error))
        return None

    def _enqueue(self, request: Request, rejection: RequestRejected | None) -> Future[Any]:
        future: Future[Any] = Future()
        if rejection is not None:
            future.set_exception(rejection)
        else:
            self._put(_Work(request, future))
        return future

    def _put(self, command: _Work | _Order) -> None:
        if os.getpid() != self._pid:
            command.future.set_exception(EngineDead(f"The {self._name} engine stayed in the process forked from."))
            return
        with self._lock:
            if self._end is None:
                self._inbox.put(command)
                return
        command.future.set_exception(_copy(self._end))

    # --- the driver's side ---------------------------------------------------------------------------------------

    def _run(self, start: Callable[[], Backend], ready: Future[Backend]) -> None:
        try:
            backend = start()
        except BaseException as e:  # noqa: BLE001 - raised in the constructor's thread
            clear_frames(e)
            free_cached_memory()
            ready.set_exception(start_failure(e, name=self._name, model=self._model))
            return
        ready.set_result(backend)
        end = EngineDead(f"The {self._name} engine was closed.")
        try:
            self._loop(backend)
        except BaseException as e:  # set on every open future
            logger.exception("the %s engine died", self._name)
            end = EngineDead(death(e, name=self._name))
            end.__cause__ = e
        self._finish(end)
        try:
            backend.close()
        except Exception:  # closing is the last thing that happens here; nobody waits for its outcome
            logger.exception("the %s engine did not close cleanly", self._name)
        del backend, ready  # a future holds its result
        clear_frames(end)  # whoever keeps the error does not keep the model
        free_cached_memory()

    def _loop(self, backend: Backend) -> None:
        while True:
            self._receive(block=not (self._open or self._waiting))
            if self._closing.is_set():
                return
            self._forget(backend)
            self._begin(backend)
            if self._open:
                for key, answer in backend.step():
                    _answer(self._open.pop(key), answer)

    def _receive(self, *, block: bool) -> None:
        """Move what has arrived to `_waiting`; with `block`, wait for the first."""
        try:
            while (command := self._inbox.get(block=block)) is not None:
                self._waiting.append(command)
                block = False
        except queue.Empty:
            pass

    def _forget(self, backend: Backend) -> None:
        """Take out of the backend what nobody waits for any more."""
        while not self._forgotten.empty():
            futures = self._forgotten.get()
            if keys := [key for key, future in self._open.items() if future in futures]:
                backend.drop(keys)
            for key in keys:
                _answer(self._open.pop(key), RequestRejected("aborted", "it was dropped, as nobody waited for it"))

    def _begin(self, backend: Backend) -> None:
        """Hand waiting commands to the backend in order; an order waits until nothing is in flight."""
        while self._waiting:
            command = self._waiting[0]
            if isinstance(command, _Order):
                if self._open:
                    return
                self._waiting.popleft()
                _obey(backend, command)
                continue
            self._waiting.popleft()
            if not command.future.set_running_or_notify_cancel():
                continue
            if self._asleep:
                command.future.set_exception(EngineAsleep(f"The {self._name} engine is asleep; wake it, then ask."))
                continue
            self._next_key += 1
            self._open[self._next_key] = command.future
            try:
                backend.add(self._next_key, command.request)
            except RequestRejected as rejection:
                _answer(self._open.pop(self._next_key), rejection)

    def _fall_asleep(self, backend: Backend) -> None:
        backend.sleep()
        self._asleep = True

    def _wake(self, backend: Backend, model: str) -> None:
        if self._asleep:
            backend.wake(model)
            self._asleep = False
        else:
            backend.load_weights(model)

    def _finish(self, end: EngineDead) -> None:
        with self._lock:
            self._end = end
        self._receive_all()
        unbegun = [command.future for command in self._waiting]
        self._waiting.clear()
        for future in [f for f in unbegun if f.set_running_or_notify_cancel()] + list(self._open.values()):
            future.set_exception(_copy(end))
        self._open.clear()

    def _receive_all(self) -> None:
        while not self._inbox.empty():
            if (command := self._inbox.get()) is not None:
                self._waiting.append(command)


def _answer(future: Future[Any], answer: Answer) -> None:
    if isinstance(answer, RequestRejected):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _obey(backend: Backend, order: _Order) -> None:
    try:
        order.carry_out(backend)
    except BaseException as e:
        order.future.set_exception(e)
        raise  # the backend may be half of what it was
    else:
        order.future.set_result(None)


def _copy(end: EngineDead) -> EngineDead:
    """One exception an error's reader: a shared one would collect everybody's traceback."""
    copy = EngineDead(*end.args)
    copy.__cause__ = end.__cause__
    return copy
