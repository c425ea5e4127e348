"""The client's handle of one child of a node: its process, and the line to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from multiprocessing.connection import Connection
from typing import Any

from pipelines.engines.base import EngineOptions
from pipelines.engines.driver import Request
from pipelines.engines.node_wire import Done, Drop, Order, Ready, Start, pack_requests
from pipelines.runners.gpus import Cards, visible_devices
from pipelines.runners.output import Output

STOP_SECONDS = 30.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from pipelines.engines.node_child import main; main(int(sys.argv[1]))"
)


class Far:
    """An engine at the other end of a line, started or still starting.

    ready: what the engine said of itself, None while it starts. done: its answer to the last order. open: the requests
    it was given and has not answered.
    """

    def __init__(self, line: Connection, start: Start) -> None:
        self.line = line
        self.ready: Ready | None = None
        self.done: Done | None = None
        self.open: dict[int, Request] = {}
        self._unsent: list[int] = []
        with contextlib.suppress(OSError):  # it is dead already: whoever reads the line will see
            self.line.send(start)

    @property
    def name(self) -> str:
        """What errors and logs call it."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether it is known to be dead, beyond what the line says."""
        return False

    def last_words(self) -> str:
        """How it ended, as far as that is known."""
        raise NotImplementedError

    def take(self, key: int, request: Request) -> None:
        """Keep a request for the next `flush`."""
        self.open[key] = request
        self._unsent.append(key)

    def flush(self) -> None:
        """Send what was taken, in one message, once it listens. Raises OSError where it is dead."""
        if self._unsent and self.ready is not None:
            self.line.send(pack_requests((key, self.open[key]) for key in self._unsent))
            self._unsent.clear()

    def drop(self, keys: Collection[int]) -> None:
        """Forget those of these requests that it has. Raises OSError where it is dead."""
        mine = [key for key in keys if self.open.pop(key, None) is not None]
        sent = set(mine).difference(self._unsent)
        self._unsent = [key for key in self._unsent if key in self.open]
        if sent:
            self.line.send(Drop(tuple(sent)))

    def send(self, order: Order) -> None:
        """Give an order. Raises OSError where it is dead."""
        self.line.send(order)

    def receive(self) -> Any:
        """The next message. Raises EOFError or OSError where it is dead."""
        while not self.line.poll(1.0):
            if self.ended:  # its line is held open by a process its engine started
                raise EOFError
        return self.line.recv()

    def kill(self) -> None:
        """Have nothing more to do with it, at once. Twice is no error."""
        self.line.close()

    def stop(self) -> None:
        """The end, after an order to close."""
        self.kill()


class Child(Far):
    """One child process with an engine on its cards."""

    def __init__(self, model: str, options: EngineOptions, *, cards: Cards, share: tuple[int, int] | None) -> None:
        self.cards = cards
        here, there = socket.socketpair()
        with there:
            command = [sys.executable, "-c", _BOOT, str(there.fileno()), json.dumps(sys.path)]
            # A new interpreter, not a fork: this process may have threads and, on another day, CUDA. A session of its
            # own: a terminal's Ctrl-C does not reach it, and it is killed with the processes its engine started.
            self._process = subprocess.Popen(
                command,
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": visible_devices(cards)},
            )
        self._output = Output(self._process, name=self.name)
        super().__init__(Connection(here.detach()), Start(model=model, options=options, share=share))

    @property
    def name(self) -> str:
        """What errors and logs call it."""
        return f"GPU {'+'.join(map(str, self.cards))}" if "cpu" not in self.cards else "CPU"

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether its process has."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """How its process ended, and the last lines it wrote."""
        return self._output.last_words()

    def kill(self) -> None:
        """End it, and what it started, at once. Twice is no error."""
        if self.line.closed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.line.close()

    def stop(self) -> None:
        """Wait for the end of an ordered close; kill it where that takes too long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()
