"""Two processes on one folder at the same time: one result, and nobody writes into what the other does."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.chaos.arena import Arena, Place, ended
from tests.chaos.outcome import Outcome, failed, settle


def twin_rounds(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """Two `passrl rounds`, from nothing."""
    place = arena.place(name, complete=False)
    fault = _both(place, place.whole, lag=_lag(chances, arena.seconds))
    return failed(fault) if fault else settle(arena, place)


def twin_train(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """Two `passrl train`, of a round that is shaped."""
    place = arena.place(name)
    for made in ("train", "policy", "eval"):
        shutil.rmtree(place.run / "round-001" / made)
    train = ("train", place.config, "--out", str(place.run), "--round", "1")
    fault = _both(place, train, lag=_lag(chances, arena.seconds / 6))
    return failed(fault) if fault else settle(arena, place)


def twin_sft(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """Two `passrl sft` with one --out: afterwards a third makes what one alone makes elsewhere."""
    place = arena.place(name, complete=False)
    pairs = {"prompt": ["1+1=", "2+2=", "3+3="], "completion": ["2", "4", "6"]}
    pq.write_table(pa.table(pairs), place.folder / "pairs.parquet")
    fault = _both(place, _sft(place, "twins"), lag=_lag(chances, arena.seconds / 6))
    if fault:
        return failed(fault)
    for out in ("twins", "alone"):
        end = place.passrl(*_sft(place, out))
        if end.code:
            return failed(f"sft into {out} afterwards: {end.text[-600:]}")
    twins, alone = (_policy(place.folder / out / "policy") for out in ("twins", "alone"))
    return Outcome(how="same") if twins == alone else failed("the policy is not that of one sft alone")


def _both(place: Place, command: tuple[str, ...], *, lag: float) -> str | None:
    """Run a command twice, the second some seconds after the first; what one of them did wrong."""
    first = place.start(*command)
    time.sleep(lag)
    second = place.start(*command)
    ends = [ended(*each) for each in (first, second)]
    return next((f"one of two {end.fault}" for end in ends if end.fault), None) or (
        None if any(end.code == 0 for end in ends) else f"neither came through: {[end.text[-300:] for end in ends]}"
    )


def _lag(chances: random.Random, seconds: float) -> float:
    """Half of the time together, else anywhere while the first runs."""
    return chances.choice([0.0, chances.uniform(0.0, seconds)])


def _sft(place: Place, out: str) -> tuple[str, ...]:
    options = ("--set", "updates=3", "--set", "warmup_steps=0")
    return ("sft", str(place.folder / "pairs.parquet"), "--policy", str(place.folder / "model"),
            "--out", str(place.folder / out), *options)  # fmt: skip


def _policy(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
