"""The runner: one long-lived process a core takes cell after cell, and a killed study goes on where it was.

A cell that is being computed is locked by the system (flock), which a dead process cannot hold; a finished one is a
file. Any number of workers may run at once, on one disk, started at different times.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.study.arms import Cell
from benchmarks.study.cell import EVALUATION_SEED, Workshop, run_cell, train_options
from benchmarks.study.evaluation import Evaluation, evaluate
from benchmarks.study.publish import KEPT_ROUNDS, KEPT_SEED, kept_rows, write_kept
from benchmarks.study.signals import Batch
from benchmarks.study.size import Size, grid, tuning_cells
from benchmarks.study.store import (
    SCHEMA,
    load_models,
    result_file,
    threads,
    world_digest,
    write_result,
)
from benchmarks.study.tasks import Split, make_tasks
from trainer.policy import load_policy


def open_workshop(models: Path, size: Size) -> Workshop:
    """Loads what a process keeps, and evaluates the start policy."""
    threads(1)
    loaded = load_models(models)
    tasks = make_tasks(size.evaluation_prompts, seed=EVALUATION_SEED, split=Split.EVALUATION)
    evaluation = Evaluation([task.prompt_ids() for task in tasks], loaded.teacher, loaded.shape, size.cap)
    shop = Workshop(loaded, load_policy(str(models / "policy"), train_options()), evaluation, size, {})
    shop.reset()
    start = evaluate(shop.parameters, evaluation, seed=EVALUATION_SEED, low_temperature=True)
    return replace(shop, start=start)


def commit() -> str:
    """The commit that the code is at, with a + where the tree differs from it; "" outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process has the lock of a result for the duration of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def compute(cell: Cell, shop: Workshop, *, results: Path, rollouts: Path, world: str) -> bool:
    """Runs a cell unless it is finished or another process has it; whether it was run here.

    Of one seed the rollouts of some rounds are kept in ``rollouts``.
    """
    path = result_file(results, cell)
    with claimed(path) as mine:
        if not mine or path.exists():
            return False
        at = commit()
        kept: list[dict[str, Any]] = []

        def keep(number: int, batch: Batch, signals: pa.Table) -> None:
            if cell.seed == KEPT_SEED and number in KEPT_ROUNDS:
                kept.extend(kept_rows(number, batch, signals))

        rows = [{"chunks": None, **row, "world": world, "commit": at} for row in run_cell(cell, shop, keep)]
        if kept:
            write_kept(rollouts / path.name, kept)
        write_result(path, rows)
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
    return True


def work(cells: Sequence[Cell], *, size: Size, models: Path, results: Path, rollouts: Path) -> list[str]:
    """Computes the cells that nobody else has, in order; returns the names of those that failed.

    Stops between cells where the process that started it is gone.
    """
    left = [cell for cell in cells if not result_file(results, cell).exists()]
    if not left:
        return []
    shop, world, parent, failed = open_workshop(models, size), world_digest(models), os.getppid(), []
    for cell in left:
        if os.getppid() != parent:
            break
        try:
            if compute(cell, shop, results=results, rollouts=rollouts, world=world):
                print(f"{cell.name} is finished", flush=True)
        except Exception:  # noqa: BLE001  # one cell's failure is not the others'
            traceback.print_exc()
            failed.append(cell.name)
    return failed


def chosen_rates(size: Size, results: Path, *, world: str) -> dict[str, float]:
    """Each arm's learning rate: that of the highest mean pass@1 after the last round of the tuning seeds.

    Of equal ones the lowest. Raises ValueError where a tuning cell is missing, or was made in another world than
    ``world`` (`store.world_digest`): what was learned there says nothing about the rate here.
    """
    cells = {cell: result_file(results, cell) for cell in tuning_cells(size)}
    missing = [cell.name for cell, path in cells.items() if not path.exists()]
    if missing:
        raise ValueError(
            f"{len(missing)} tuning cells of {results} are not finished ({missing[0]}, ...), so no learning rate can "
            "be chosen; run the tuning again"
        )
    found: dict[str, dict[float, list[float]]] = {}
    foreign = []
    for cell, path in cells.items():
        last = pq.read_table(path, schema=SCHEMA).to_pylist()[-1]
        found.setdefault(cell.arm, {}).setdefault(cell.lr, []).append(last["pass1"])
        if last["world"] != world:
            foreign.append(f"{cell.name} in {last['world']}")
    if foreign:
        raise ValueError(
            f"{len(foreign)} tuning cells of {results} were made in another world than {world} ({foreign[0]}, ...), so "
            "they choose no learning rate for this one; remove them, or give the folder of the models they began with"
        )
    best = {}
    for arm, of_rate in found.items():
        means = {rate: float(np.mean(of_rate[rate])) for rate in sorted(of_rate)}
        best[arm] = max(means, key=means.__getitem__)
    return best


def run_workers(count: int, arguments: Sequence[str]) -> int:
    """Starts worker processes with the same arguments and waits; the number of those that failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.study", *arguments]
    workers = [subprocess.Popen(command, env=environment) for _ in range(count)]
    return sum(worker.wait() != 0 for worker in workers)


def cells_of(size: Size, stage: str, results: Path, *, models: Path, rate: float | None = None) -> list[Cell]:
    """The cells of the stage "tuning" or "grid"; rate: one for every arm, instead of the tuned ones."""
    if stage == "tuning":
        return tuning_cells(size)
    if rate is not None:
        return grid(size, dict.fromkeys((*size.arms, *size.further), rate))
    return grid(size, chosen_rates(size, results, world=world_digest(models)))
