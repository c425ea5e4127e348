"""The process in which a worker pool keeps the engines of one group of GPUs, from job to job.

It does for the workers of a machine what `acquire` does for the stages of a process: one ledger, by whose rules the
engine of the next job is the one that is there, or that one with other weights, or another. In addition,

- workers that ask for the same share the engine, and one that asks for something else waits until they are gone, or
  have asked nothing for `PATIENCE` seconds;
- what a worker had open when it died is dropped;
- an engine that nobody has sleeps, or ends where it would not sleep, so that the device is free between jobs;
- an engine that fails takes the process along, and after `--idle-seconds` without a worker the process ends. The pool
  (`runners.keeping`) starts another when a worker asks for one.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from pipelines.engines.acquire import ledger_of_process
from pipelines.engines.base import Engine, EngineOptions
from pipelines.engines.ledger import Ledger, Start
from pipelines.engines.node_child import Asked, Events, portable, serve
from pipelines.engines.node_wire import Done, Order, Ready
from pipelines.engines.node_wire import Start as Wish
from pipelines.models.folder import weights_identity

PATIENCE = 30.0
POLL_SECONDS = 0.2
_LOG = logging.getLogger("passrl.kept_engines")


@dataclass(eq=False, kw_only=True)
class Holder:
    """A worker's line. wanted: the engine it is for. gone: whether its other end is closed. since: when it got it."""

    line: Connection
    wanted: tuple[Any, ...]
    asked: Asked = field(default_factory=Asked)
    gone: bool = False
    since: float | None = None

    def quiet(self, now: float) -> float:
        """Seconds in which it could ask and did not; 0 while its engine starts or an answer is owed."""
        return 0.0 if self.since is None or self.asked.open else now - max(self.since, self.asked.since)

    def hang_up(self) -> None:
        """End the line from here: its reader meets the end as if the worker had closed it."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.line.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


class Lending:
    """Who has the engine of a ledger. Thread-safe."""

    def __init__(self, ledger: Ledger, *, patience: float = PATIENCE) -> None:
        self._ledger = ledger
        self._patience = patience
        self._holders: list[Holder] = []
        self._changed = threading.Condition()

    def lend(self, holder: Holder, model: str, options: EngineOptions) -> Engine | None:
        """The engine, once nobody has another; None where the holder is gone before. Raises what starting it raises."""
        begun = time.monotonic()
        with self._changed:
            while others := [other for other in self._holders if other.wanted != holder.wanted]:
                self._take_from(others)
                self._changed.wait(POLL_SECONDS)
                if holder.gone:
                    return None
            self._holders.append(holder)
        waited = time.monotonic() - begun
        engine = self._ledger.engine(model, options)
        holder.since = time.monotonic()
        took = holder.since - begun - waited
        _LOG.info("a worker has the engine on %s: waited %.1f s for others, then %.1f s for it", model, waited, took)
        return engine

    def give_back(self, holder: Holder, engine: Engine | None) -> None:
        """The holder is done: what it asked is dropped, and an engine that nobody has is put aside.

        Raises what putting it aside raises.
        """
        if engine is not None:
            engine.drop(list(holder.asked.open.values()))
        with self._changed:
            if holder in self._holders:
                self._holders.remove(holder)
                if not self._holders:
                    self._ledger.rest()
            self._changed.notify_all()

    def _take_from(self, others: list[Holder]) -> None:
        now = time.monotonic()
        if all(other.quiet(now) > self._patience for other in others):
            for other in [other for other in others if not other.gone]:
                _LOG.info("a worker that asked nothing for %.0f s loses its engine to another", self._patience)
                other.hang_up()


class Host:
    """Serves whoever connects, each by two threads."""

    def __init__(self, lending: Lending, key: bytes) -> None:
        self._lending = lending
        self._key = key
        self._served = 0
        self._worn = False  # a start failed, and may have left something on the device
        self._lock = threading.Lock()

    def run(self, listening: socket.socket, *, idle_seconds: float) -> None:
        """Until nobody was served for so long."""
        idle_since = time.monotonic()
        while self._served or time.monotonic() - idle_since < (0 if self._worn else idle_seconds):
            if select.select([listening], [], [], POLL_SECONDS)[0]:
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                    self._begin(listening.accept()[0])
            if self._served:
                idle_since = time.monotonic()

    def _begin(self, accepted: socket.socket) -> None:
        accepted.setblocking(True)
        line = Connection(accepted.detach())
        with self._lock:
            self._served += 1
        threading.Thread(target=self._serve, args=(line,), daemon=True, name="worker").start()

    def _serve(self, line: Connection) -> None:
        try:
            if self._is_ours(line):
                self._serve_one(line, line.recv())
        except (EOFError, OSError):
            pass  # the worker is gone
        except BaseException:  # noqa: BLE001 - logged, and the end of the process
            _LOG.exception("an engine that is kept failed, and its process ends")
            os._exit(1)
        finally:
            line.close()
            with self._lock:
                self._served -= 1

    def _is_ours(self, line: Connection) -> bool:
        """Whether the other end knows the key. Nothing it sends is unpickled before."""
        try:
            deliver_challenge(line, self._key)  # type: ignore[attr-defined]
            answer_challenge(line, self._key)  # type: ignore[attr-defined]
        except AuthenticationError:
            _LOG.warning("somebody without the pool's key was turned away")
            return False
        return True

    def _serve_one(self, line: Connection, wish: Wish) -> None:
        try:
            wanted = (wish.model, wish.options, weights_identity(wish.model))
        except Exception as error:  # noqa: BLE001 - raised in the worker
            line.send(Done(portable(error)))
            return
        holder, events = Holder(line=line, wanted=wanted), Events()
        reader = threading.Thread(target=_read, args=(holder, events), daemon=True, name="line")
        reader.start()
        engine = None
        try:
            engine = self._lend(holder, wish)
            if engine is not None:
                line.send(Ready(engine.max_model_len, engine.vocab_size))
                serve(engine, line, events, holder.asked)
        finally:
            self._give_back(holder, engine)
            holder.hang_up()
            reader.join()  # before its line is closed, whose number may be another's next

    def _lend(self, holder: Holder, wish: Wish) -> Engine | None:
        try:
            return self._lending.lend(holder, wish.model, wish.options)
        except Exception as error:  # noqa: BLE001 - raised in the worker
            self._worn = True
            holder.line.send(Done(portable(error)))
            return None

    def _give_back(self, holder: Holder, engine: Engine | None) -> None:
        try:
            self._lending.give_back(holder, engine)
        except Exception as error:
            raise RuntimeError("the engine cannot be put aside") from error  # not to be taken for the worker's end


def _read(holder: Holder, events: Events) -> None:
    try:
        while True:
            events.put(holder.line.recv())
    except (EOFError, OSError):
        holder.gone = True
        events.put(Order("close"))


def logged(start: Start) -> Start:
    """The same, with a line in the log for each engine that it started."""

    def started(model: str, options: EngineOptions) -> Engine:
        begun = time.monotonic()
        engine = start(model, options)
        _LOG.info("started an engine of kind %s on %s in %.1f s", options.kind, model, time.monotonic() - begun)
        return engine

    return started


def _end_with_pool() -> None:
    sys.stdin.buffer.read()
    if os.getpgrp() == os.getpid():  # as the pool starts it: what the engines started goes too
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Serve until idle; `runners.keeping.EngineKeeper` starts it."""
    parser = argparse.ArgumentParser(description="Keeps the engines of a worker pool; started by it.")
    parser.add_argument("--socket", type=int, required=True, help="number of the listening socket")
    parser.add_argument("--idle-seconds", type=float, required=True, help="so long without a worker, and it ends")
    options = parser.parse_args()
    os.set_inheritable(options.socket, False)
    key = bytes.fromhex(sys.stdin.buffer.readline().decode())
    threading.Thread(target=_end_with_pool, daemon=True, name="pool").start()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    _LOG.setLevel(logging.INFO)
    ledger = ledger_of_process(logged)
    Host(Lending(ledger), key).run(socket.socket(fileno=options.socket), idle_seconds=options.idle_seconds)
    _LOG.info("no worker has an engine, and the process ends")
    ledger.close()


if __name__ == "__main__":
    main()
