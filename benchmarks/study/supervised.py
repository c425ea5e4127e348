"""What policy and teacher learn from, and how near they come to it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.study.alphabet import text
from benchmarks.study.tasks import Habits, Split, Task, Trace, make_tasks, random_task, write_trace


def training_pairs(habits: Habits, *, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` tasks of the models' split, each with a trace."""
    rng = random.Random(f"traces/{seed}")
    tasks = [random_task(rng, Split.MODELS) for _ in range(count)]
    return [(task.text(), text(write_trace(task, habits, rng).ids())) for task in tasks]


def validation(habits: Habits, *, count: int, seed: int) -> list[tuple[Task, Trace]]:
    """Evaluation tasks with a trace each."""
    rng = random.Random(f"validation/{seed}")
    tasks = make_tasks(count, seed=seed, split=Split.EVALUATION)
    return [(task, write_trace(task, habits, rng)) for task in tasks]


def least_loss(pairs: Sequence[tuple[Task, Trace]]) -> float:
    """The loss of a model that knows the writer's habits exactly, in nats a completion token."""
    return -sum(trace.logprob for _, trace in pairs) / sum(len(trace.ids()) for _, trace in pairs)
