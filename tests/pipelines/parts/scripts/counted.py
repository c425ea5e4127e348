"""A stage with a count of the engine's requests, killed at the n-th one that is finished: counted.py CASES, as JSON.

A case: out, prompts, model, kill_at (0: never; below 1: that share of the requests of the case before), flush_seconds?,
copy? (where `out` is copied to afterwards). Generate: engine (EngineOptions' fields), options (GenerateOptions'
fields). Score: rollouts, signal (its table), journal?, damage? (of what the journal has, half is made unreadable).
Prints for each {"status": how the process ended, "requests": how many the engine was asked}. Each case runs in a child
process, forked before Beam or an engine has made any thread.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - by pyarrow; once, not in every child

from pass_ops.shards import finalize, names
from pipelines.engines.base import EngineOptions, RequestRejected, Sampling
from pipelines.engines.driver import DrivenEngine, Request
from pipelines.models.folder import load_tokenizer
from pipelines.parts import journal
from pipelines.parts.journal import Journal
from pipelines.parts.loop import PartLoop
from pipelines.rollouts.stage import GenerateOptions, generate
from pipelines.signals import signal_from_table
from pipelines.signals.stage import score_stage

FLUSHED_BY = (10, 20)


def count_requests(log: int) -> None:
    """A byte in the log for every request the engine takes in."""
    enqueue = DrivenEngine._enqueue

    def counted(engine: DrivenEngine, request: Request, rejection: RequestRejected | None) -> Any:
        os.write(log, b".")
        return enqueue(engine, request, rejection)

    DrivenEngine._enqueue = counted  # type: ignore[method-assign]


def die_at_answer(nth: int) -> None:
    """SIGKILL as the n-th answer comes, before anybody is told of it."""
    enqueue = DrivenEngine._enqueue
    numbers = itertools.count(1)

    def die(answered: Future[Any]) -> None:
        if next(numbers) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(engine: DrivenEngine, request: Request, rejection: RequestRejected | None) -> Any:
        asked = enqueue(engine, request, rejection)
        asked.add_done_callback(die)
        return asked

    DrivenEngine._enqueue = watched  # type: ignore[method-assign]


def segments(kept: Journal) -> int:
    return len(kept._store.entries(names.JOURNAL))


def die_at_piece(nth: int) -> None:
    """SIGKILL as the n-th rollout, or answer, is finished, before the journal has it.

    In an object store a segment is flushed by the tenth and by the twentieth, however slow the store is.
    """
    add = Journal.add
    seen, one_by_one = 0, threading.Lock()

    def finished(kept: Journal, name: str, content: bytes) -> None:
        nonlocal seen
        with one_by_one:
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            add(kept, name, content)
            while seen in FLUSHED_BY and not kept._store.is_local and segments(kept) <= FLUSHED_BY.index(seen):
                time.sleep(0.01)

    Journal.add = finished  # type: ignore[method-assign]


def work(case: dict[str, Any], log: int) -> None:
    """One command."""
    count_requests(log)
    journal.FLUSH_SECONDS = case.get("flush_seconds", journal.FLUSH_SECONDS)
    (die_at_piece if case.get("journal", True) else die_at_answer)(case["kill_at"])
    if "signal" in case:
        score(case)
        return
    options = case["options"] | {"sampling": Sampling(**case["options"]["sampling"])}
    generate(
        prompts=case["prompts"],
        out=case["out"],
        model=case["model"],
        engine=EngineOptions(**case["engine"]),
        options=GenerateOptions(**options),
    )


def score(case: dict[str, Any]) -> None:
    """A signal over all parts by the part loop, as the Beam job drives it."""
    stage = score_stage(
        signal=signal_from_table(case["signal"]),
        rollouts=case["rollouts"],
        prompts=case["prompts"],
        tokenizer=case["model"],
        out=case["out"],
        journal=case.get("journal", True),
    )
    stage.work.setup()
    loop = PartLoop(dataset=stage.dataset, work=stage.work, parts_in_flight=None, max_attempts=3)
    for part in range(stage.dataset.spec.parts):
        loop.offer(part)
    loop.drain()
    finalize(stage.dataset)


def damage(out: str) -> None:
    """Changes a byte in the middle of what the journals hold."""
    for file in Path(out, names.JOURNAL).iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def main(case: dict[str, Any]) -> dict[str, int]:
    """The command in a child process; how it ended, and what the engine was asked."""
    if case.get("damage"):
        damage(case["out"])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        work(case, writing)
        os._exit(0)
    os.close(writing)
    requests = 0
    while chunk := os.read(reading, 65536):
        requests += len(chunk)
    if "copy" in case:
        shutil.copytree(case["out"], case["copy"])
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "requests": requests}


if __name__ == "__main__":
    told: list[dict[str, int]] = []
    cases = json.loads(sys.argv[1])
    if not all("signal" in case for case in cases):
        import torch  # noqa: F401
        import transformers  # noqa: F401

        import pipelines.engines.transformers
        import pipelines.parts.job  # noqa: F401 - with Beam
    load_tokenizer(cases[0]["model"])  # for what it imports
    for case in cases:
        if 0 < case["kill_at"] < 1:
            case["kill_at"] = round(case["kill_at"] * told[-1]["requests"])
        told.append(main(case))
    print("told", json.dumps(told))
