"""Two checkouts of the project measured by turns: what `bench_before.py` and `score_before.py` share.

A process with each checkout's code does its work once for every line that it is sent, and says how long that took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent.parent


def serve(
    package: ModuleType,
    work: Callable[[str], object],
    *,
    clock: Callable[[], float] = time.process_time,
    told: str = "",
) -> None:
    """The other side of `Side`: say where `package` comes from, then `told`; work for every line that arrives."""
    assert package.__file__ is not None
    print(Path(package.__file__).parent.parent, told, sep="\n", flush=True)
    for line in sys.stdin:
        begun = clock()
        work(line.strip())
        print(clock() - begun, flush=True)


class Side:
    """A process that runs `script CHECKOUT ARGUMENTS` with the code of one checkout, and there calls `serve`.

    Raises SystemExit where the code that it imports is another one.
    """

    def __init__(self, script: str, checkout: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, str(checkout), *arguments],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = self._line()
        if Path(found).resolve() != checkout.resolve():
            raise SystemExit(f"the code was imported from {found}, not from {checkout}; name a checkout of the project")
        self.told = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def seconds(self, line: str = "") -> float:
        """What one piece of work took; `line` is what it is told."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def least_by_turns(sides: Sequence[Side], repeats: int, ask: Callable[[Side, int], float]) -> list[float]:
    """The least of `repeats` times of each side, which is then closed; ask: side and turn -> seconds.

    Who goes first changes with every turn. Turn 0 does not count: it starts processes and loads what is compiled.
    """
    best = {side: float("inf") for side in sides}
    for turn in range(repeats + 1):
        for side in sides if turn % 2 else reversed(sides):
            seconds = ask(side, turn)
            best[side] = min(best[side], seconds) if turn else best[side]
    for side in sides:
        side.close()
    return [best[side] for side in sides]
