"""What policy and teacher learn from, and how near they come to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.demo_models.traces import ROW_GROUP
from benchmarks.study.alphabet import text
from benchmarks.study.tasks import Habits, Split, Task, Trace, make_tasks, random_task, write_trace


def write_pairs(path: Path, habits: Habits, *, count: int, seed: int) -> None:
    """Writes ``count`` tasks of the models' split, each with a trace: Parquet, columns prompt and completion."""
    rng = random.Random(f"traces/{seed}")
    tasks = [random_task(rng, Split.MODELS) for _ in range(count)]
    completions = [text(write_trace(task, habits, rng).ids()) for task in tasks]
    table = pa.table({"prompt": [task.text() for task in tasks], "completion": completions})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=ROW_GROUP)


def validation(habits: Habits, *, count: int, seed: int) -> list[tuple[Task, Trace]]:
    """Evaluation tasks with a trace each."""
    rng = random.Random(f"validation/{seed}")
    tasks = make_tasks(count, seed=seed, split=Split.EVALUATION)
    return [(task, write_trace(task, habits, rng)) for task in tasks]


def least_loss(pairs: Sequence[tuple[Task, Trace]]) -> float:
    """The loss of a model that knows the writer's habits exactly, in nats a completion token."""
    return -sum(trace.logprob for _, trace in pairs) / sum(len(trace.ids()) for _, trace in pairs)
