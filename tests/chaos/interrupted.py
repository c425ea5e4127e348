"""kill -9 at random times, up to three in a row: the run then ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal

from tests.chaos.arena import Arena, Place
from tests.chaos.outcome import Outcome, failed, settle


def killed_rounds(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """`passrl rounds`, from nothing."""
    return _killed(arena, arena.place(name, complete=False), chances, seconds=arena.seconds)


def killed_train(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """`passrl train`, of a round that is shaped."""
    place = arena.place(name)
    for made in ("train", "policy", "eval"):
        shutil.rmtree(place.run / "round-001" / made)
    train = ("train", place.config, "--out", str(place.run), "--round", "1")
    return _killed(arena, place, chances, train, seconds=arena.seconds / 6)


def _killed(
    arena: Arena, place: Place, chances: random.Random, command: tuple[str, ...] = (), *, seconds: float
) -> Outcome:
    for _ in range(chances.randint(1, 3)):
        process, log = place.start(*(command or place.whole))
        process.join(chances.uniform(0.02, 1.0) * seconds)
        process.kill()
        process.join()
        if process.exitcode not in {0, -signal.SIGKILL}:
            return failed(f"ended with {process.exitcode}: {log.read_text()[-600:]}")
    return settle(arena, place)
