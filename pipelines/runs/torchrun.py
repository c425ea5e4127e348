"""The update as a child of this process: torchrun with one rank per GPU, told and telling over one socket.

This process computes nothing and opens no CUDA context. A rank that dies takes its attempt along; the next one goes on
from the last checkpoint.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import pickle
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pass_ops.errors import PassError
from pipelines.runners.gpus import Cards, GivenGpus, count_gpus, node_cards, visible_devices
from pipelines.runners.output import Output
from pipelines.runs.progress import Report

if TYPE_CHECKING:
    from trainer import TrainResult

MOST_DEATHS = 3
MESSAGE_BYTES = 1 << 20
STOP_SECONDS = 30.0
_LOG = logging.getLogger(__name__)
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pipelines.runs.rank import main; main(sys.argv[2])"
)


class RanksDied(PassError, RuntimeError):
    """The processes of an update die again and again; the message has the last lines that they wrote."""


def trainer_for(gpus: GivenGpus | None) -> Callable[..., TrainResult]:
    """`trainer.train` in this process (or as this rank of torchrun's), or on the GPUs that a run names."""
    if gpus is None or "WORLD_SIZE" in os.environ:
        from trainer import train

        return train
    return partial(_train_unless_ended, node_cards(gpus, count=count_gpus()))


def _train_unless_ended(cards: Cards, *, progress: Report, **arguments: Any) -> TrainResult:
    """`train_on`, but of an update that has ended the result at once: it takes a look at files, and no process."""
    from trainer.run import ended

    device = "cpu" if cards[0] == "cpu" else "cuda"
    return ended(device=device, **arguments) or train_on(cards, progress=progress, **arguments)


def train_on(cards: Cards, *, progress: Report, **arguments: Any) -> TrainResult:
    """`trainer.train` with these arguments, on one rank per card. Raises what that raises, and RanksDied.

    Where processes die (out of memory, an operator's kill), the update is started again and goes on from its last
    checkpoint, up to three times without a further step.
    """
    deaths = furthest = 0
    while deaths < MOST_DEATHS:
        attempt = _Attempt(cards, arguments)
        try:
            result = attempt.follow(progress)
        finally:
            attempt.end()
        if result is not None:
            return result
        deaths = 1 if attempt.steps > furthest else deaths + 1
        furthest = max(furthest, attempt.steps)
        _LOG.warning("an update on %d GPUs died after step %d by %s", len(cards), attempt.steps, attempt.last_words())
    raise RanksDied(
        f"The processes of an update on {len(cards)} GPUs died {deaths} times without a further step, the last time by "
        f"{attempt.last_words()}\nSignal 9 mostly says that the system had no memory left. Checkpoints are kept; "
        "the same command goes on from the last one."
    )


class _Attempt:
    """One torchrun: started, followed to its end, ended. steps: how far it came."""

    def __init__(self, cards: Cards, arguments: dict[str, Any]) -> None:
        self.steps = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threads = max(1, len(os.sched_getaffinity(0)) // len(cards))
        with theirs:
            self._process = subprocess.Popen(
                _command(len(cards), arguments),
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is this process's to handle
                env={"OMP_NUM_THREADS": str(threads)} | os.environ | {"CUDA_VISIBLE_DEVICES": visible_devices(cards)},
            )
        self._output = Output(self._process, name="torchrun")

    def follow(self, progress: Report) -> TrainResult | None:
        """Until nothing of it runs; its result, None where it died. Raises the error that a rank told of."""
        result: TrainResult | None = None
        error: PassError | None = None
        for what, value in iter(self._message, None):
            match what:
                case "progress":
                    self.steps = value[0]
                    progress(*value)
                case "log":
                    name, level, text = value
                    logging.getLogger(name).log(level, "%s", text)
                case "result":
                    result = value
                case "error":
                    error = error or value
                    self._hang_up()
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """Leave nothing running, whatever happened: ranks end by themselves, by torchrun's hand, or with it."""
        self._hang_up()
        for stop in (self._process.terminate, self._process.kill):
            until = time.monotonic() + STOP_SECONDS
            while self._message(until) is not None:  # the last of them closes the socket
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(1.0, until - time.monotonic()))
                break
            stop()
        self._process.wait()
        self._socket.close()

    def last_words(self) -> str:
        """How it ended."""
        return self._output.last_words()

    def _message(self, until: float = math.inf) -> tuple[str, Any] | None:
        """The next message of any rank; None once all have ended, or the clock says `until`."""
        while not select.select([self._socket], [], [], 1.0)[0]:
            if time.monotonic() >= until:
                return None
            if self._process.poll() is not None:  # torchrun is gone, its ranks may not be
                self._hang_up()
        data = self._socket.recv(MESSAGE_BYTES)
        return pickle.loads(data) if data else None

    def _hang_up(self) -> None:
        """Ranks end when they see it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)


def _command(ranks: int, arguments: dict[str, Any]) -> list[str]:
    given = base64.b64encode(pickle.dumps(arguments)).decode()
    return [
        *(sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
        *("--log-dir", os.devnull, "--no-python"),  # without the folder that torchrun leaves in the temporary files
        *(sys.executable, "-c", _BOOT, json.dumps(sys.path), given),
    ]
