"""A command on a node of two CPU "cards", to kill processes of."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.e2e.killing import Point, passrl
from tests.e2e.project import Project
from tests.processes import MARK, Process, marked, wait_until

NODE = ("--set", 'runner.gpus=["cpu", "cpu"]', "--set", "train.save_every=1")
Kind = Callable[[Process], bool]


class Client:
    """The command in a process of its own, with its temporary files in a folder of its own.

    mark: what all processes that it starts are found by. more: further arguments of the command, further variables.
    point: where it kills itself.
    """

    def __init__(
        self,
        project: Project,
        out: str,
        mark: str,
        more: Iterable[str] = (),
        *,
        command: str = "run",
        point: Point | None = None,
        **environment: str,
    ) -> None:
        self.out, self.mark = out, mark
        self.temporary = Path(out + ".tmp")
        self.temporary.mkdir(exist_ok=True)
        self.log = Path(out + ".log")
        self.process = passrl(
            [command, project.config, "--out", out, *NODE, *more],
            str(self.log),
            point,
            environment={MARK: mark, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)} | environment,
        )

    def finish(self) -> None:
        self.process.join(1800)
        assert self.process.exitcode == 0, self.log.read_text()

    def its(self, kind: Kind) -> list[Process]:
        return sorted((p for p in marked(self.mark) if kind(p)), key=lambda p: p.pid)

    def reach(self, happens: Callable[[], object]) -> None:
        """Wait until it is so, or the command has ended."""
        wait_until(lambda: happens() or not self.process.is_alive(), seconds=1800)

    def killed(self) -> None:
        """It came to its point, and took everything that it had started with it."""
        self.process.join(1800)
        assert self.process.exitcode == -signal.SIGKILL, self.log.read_text()
        self.everything_ended()

    def kill_one(self, kind: Kind, chances: random.Random, *, after: float) -> int:
        """SIGKILL to one of its processes of that kind, once there is one and some time went by; its pid, else 0."""
        self.reach(lambda: self.its(kind))
        time.sleep(chances.uniform(0, after))
        while found := self.its(kind):
            chosen = chances.choice(found)
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(chosen.pid, signal.SIGKILL)
                return chosen.pid
        return 0

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def everything_ended(self) -> None:
        """Neither it nor a process it started is left, and no temporary file. Fails after five minutes."""
        wait_until(lambda: not self.process.is_alive() and not marked(self.mark), seconds=300)
        left = [p.name for p in self.temporary.iterdir() if p.name.startswith(("torchelastic", "pymp", "passrl"))]
        assert left == []


def steps_saved(out: str) -> int:
    """Optimizer steps of round 0 that a checkpoint holds."""
    markers = Path(out, "round-000", "train", "state").glob("step-*.json")
    return max((int(path.stem.removeprefix("step-")) for path in markers), default=0)
