"""An engine that the worker pool keeps, as a worker sees it.

A worker's engine ends with its job; the pool's outlives it. `start` gives a worker an `Engine` whose backend is that of
a node with one child, only that the child is no process of the worker's own: it is reached over the pool's socket,
serves other workers besides, and is the next job's when this one is over (`kept_host` has its rules).
"""

from __future__ import annotations

import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection

from pipelines.engines.base import EngineOptions, EngineStartError
from pipelines.engines.driver import DrivenEngine
from pipelines.engines.node import MOST_DEATHS, NodeBackend
from pipelines.engines.node_process import Far
from pipelines.engines.node_wire import Start
from pipelines.runners.keeping import Address


def start(model: str, options: EngineOptions, address: Address) -> DrivenEngine:
    """An engine in front of the pool's. Waits while workers of another job have the device.

    Raises ChildrenDied, and what starting an engine raises.
    """
    return DrivenEngine(lambda: KeptBackend(model, options, address), model=model, name="worker pool's")


class Lent(Far):
    """The pool's engine, as long as this line lasts."""

    @property
    def name(self) -> str:
        """What errors and logs call it."""
        return f"the worker pool of {socket.gethostname()}"

    def last_words(self) -> str:
        """Where they are: its output is the pool's."""
        return "the pool's log says why"


class KeptBackend(NodeBackend):
    """The one engine at the end of the pool's socket behind the driver's calls.

    Other weights, sleep and waking are matters of the pool, for others may use its engine: this line ends, and another
    asks for what is wanted then.
    """

    def __init__(self, model: str, options: EngineOptions, address: Address) -> None:
        self._address = address
        super().__init__(model, options, [()])  # on the cards of the pool's process

    def load_weights(self, model: str) -> None:
        """Ask the pool for these weights instead. Raises what loading them raises there."""
        self.sleep()
        self.wake(model)

    def sleep(self) -> None:
        """Leave the engine to others."""
        self._children[0].kill()

    def wake(self, model: str) -> None:
        """Ask the pool for an engine again. Raises what starting it raises there."""
        self._model = model
        self._children[0] = self._start_child(0)
        self._await_start(0)

    def _start_child(self, place: int) -> Far:  # noqa: ARG002 - there is one
        return Lent(connected(self._address), Start(model=self._model, options=self._options, share=None))

    def _gave_up(self, deaths: int, when: str, dead: Far) -> str:
        return (
            f"{deaths} processes that kept an engine died one after another {when}, the last in {dead.name}; "
            f"{dead.last_words()}. SIGKILL there mostly says that the system had no memory left: lower "
            "engine.max_num_seqs or engine.max_model_len."
        )


def connected(address: Address) -> Connection:
    """A line to the process that keeps the pool's engines, which is started where it does not run.

    Raises EngineStartError where it cannot be had.
    """
    for _ in range(MOST_DEATHS):
        try:
            return Client(address.path, family="AF_UNIX", authkey=bytes.fromhex(address.key))
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:  # it died; the pool starts another
            died = error
        except (AuthenticationError, OSError) as error:
            raise EngineStartError(
                f"The worker pool's engines cannot be reached at {address.path}: {error}. This worker uses no others; "
                "restart the pool."
            ) from error
    raise EngineStartError(
        f"{MOST_DEATHS} processes of the worker pool of {socket.gethostname()} died before they could start an engine; "
        "its log names the cause."
    ) from died
