"""One child of a node: an engine, fed and emptied over the line to the client (`node_wire` says what crosses it).

It ends when the line does. A client that was killed with SIGKILL thereby takes its children along, even while they
load a model or compute: the thread that reads the line ends the process.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
import traceback
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from pipelines.engines.acquire import start_engine
from pipelines.engines.base import Engine, EngineDead, EngineStartError, SampleRequest
from pipelines.engines.driver import Request, ScoreRequest
from pipelines.engines.node_wire import Done, Drop, Order, Ready, Requests, Start, pack_answers, unpack_requests

#: what the loop of `serve` works off: messages of the client, (key, answer) pairs of the engine
Events = queue.SimpleQueue[Any]


class Asked:
    """What one client has asked and got no answer to. since: when that last changed, by time.monotonic."""

    def __init__(self) -> None:
        self.open: dict[int, Future[Any]] = {}
        self.since = time.monotonic()

    def begin(self, key: int, future: Future[Any]) -> None:
        """A request is with the engine."""
        self.open[key], self.since = future, time.monotonic()

    def end(self, key: int) -> Future[Any] | None:
        """It is not any more; None where it was dropped before."""
        self.since = time.monotonic()
        return self.open.pop(key, None)


def main(handle: int) -> None:
    """Serve the client at the other end of the socket `handle`."""
    os.set_inheritable(handle, False)
    line = Connection(handle)
    events: Events = queue.SimpleQueue()
    threading.Thread(target=_read, args=(line, events), daemon=True, name="line").start()
    start = events.get()
    assert isinstance(start, Start)
    _take_share(start)
    try:
        engine = start_engine(start.model, start.options)
    except Exception as error:  # noqa: BLE001 - raised in the client
        line.send(Done(portable(error)))
        return
    line.send(Ready(engine.max_model_len, engine.vocab_size))
    try:
        serve(engine, line, events, Asked())
    finally:
        engine.close()


def _read(line: Connection, events: Events) -> None:
    try:
        while True:
            events.put(line.recv())
    except (EOFError, OSError):
        os._exit(1)  # nobody is left to answer to


def _take_share(start: Start) -> None:
    """Of the cores, so that children side by side do not compute on each other's."""
    if start.share is None:
        return
    place, of = start.share
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= of:
        os.sched_setaffinity(0, cores[place * len(cores) // of : (place + 1) * len(cores) // of])


def serve(engine: Engine, line: Connection, events: Events, asked: Asked) -> None:
    """Until the client orders the close. Raises EngineDead where the engine dies, and OSError where the client does."""
    while True:
        event = events.get()
        answers = []
        while isinstance(event, tuple):
            key, answer = event
            if isinstance(answer, EngineDead):
                raise answer
            if asked.end(key) is not None:
                answers.append(event)
            event = None if events.empty() else events.get()
        if answers:
            line.send(pack_answers(answers))
        if isinstance(event, Requests):
            for key, request in unpack_requests(event):
                _ask(engine, key, request, events, asked)
        elif isinstance(event, Drop):
            engine.drop([future for key in event.keys if (future := asked.end(key)) is not None])
        elif isinstance(event, Order):
            if event.name == "close":
                return
            line.send(Done(_carried_out(engine, event)))


def _ask(engine: Engine, key: int, request: Request, events: Events, asked: Asked) -> None:
    future: Future[Any]
    if isinstance(request, SampleRequest):
        future = engine.submit(request)
    elif isinstance(request, ScoreRequest):
        future = engine.score(request.token_ids, start=request.start, temperature=request.temperature)
    else:
        future = engine.pool(request.token_ids)
    asked.begin(key, future)
    future.add_done_callback(lambda done: _tell(done, key, events))


def _tell(done: Future[Any], key: int, events: Events) -> None:
    if not done.cancelled():  # else it was dropped
        events.put((key, done.exception() or done.result()))


def _carried_out(engine: Engine, order: Order) -> Exception | None:
    """The error that an order met, if any."""
    try:
        if order.name == "sleep":
            engine.sleep()
        else:
            assert order.model is not None
            (engine.wake if order.name == "wake" else engine.load_weights)(order.model)
    except Exception as error:  # noqa: BLE001 - raised in the client
        return portable(error)
    return None


def portable(error: Exception) -> Exception:
    """The error itself where the client can read it, else its words; the whole traceback goes to standard error."""
    traceback.print_exception(error)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever an error's own constructor raises
        return EngineStartError(f"{type(error).__name__}: {error}")
    return error
