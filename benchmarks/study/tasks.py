"""The study's world: chains of 10 additions and subtractions of one digit in 8 steps, left to right, modulo 100.

A prompt is the start value and the operations, each under its letter; a completion is the steps and the answer (here
between bars; every character is a token, each operation stands on a line of its own):

    prompt       57a+9b-8c-3d+4e-1 ... ?
    completion   a+9=66 | b-8=58 | =58 | c-3=55 | d+4=59 e-1=58 | ... | A58

A step is one or two operations (`alphabet.GROUPS`) or a *padding step* such as ``=58``, which says again what is
already known: 7, 14 or 4 tokens. Tasks are of mixed difficulty: in a hard one most operations are subtractions, and
forgetting the borrow is what the policy has been taught (`PUPIL`). It is the demo's world made longer, uneven and
harder, from whose teacher the models start: tasks that the demo's models were trained on are left out
(`arithmetic.Split.ASSETS`).

This module makes tasks and traces; `benchmarks.study.checker` judges them and shares nothing with it but the alphabet.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.study.alphabet import ANSWER, ASK, EOS, GROUPS, LETTERS, LINE, SAME, ids_of
from pipelines.demo import arithmetic

#: share of subtractions in an easy and in a hard task
SUBTRACTIONS = (0.1, 0.75)
HARD_SHARE = 0.5
MODULUS = 100

#: a digit to add, or to subtract where it is negative
Operation = int


@dataclass(frozen=True)
class Task:
    """A start value and an operation for each letter."""

    start: int
    operations: tuple[Operation, ...]

    @property
    def steps(self) -> list[tuple[str, tuple[Operation, ...]]]:
        """Each step's letters and operations."""
        found, at = [], 0
        for group in GROUPS:
            found.append((group, self.operations[at : at + len(group)]))
            at += len(group)
        return found

    def text(self) -> str:
        """The prompt."""
        written = (f"{letter}{one:+d}" for letter, one in zip(LETTERS, self.operations, strict=True))
        return f"{self.start:02d}{''.join(written)}{ASK}"

    def prompt_ids(self) -> list[int]:
        """The prompt's token ids."""
        return ids_of(self.text())


class Split(StrEnum):
    """Which use a task is kept for; decided by its own text, so no list has to be kept and nothing overlaps."""

    MODELS = "models"
    """training of policy, teacher and process reward model"""
    ROUNDS = "rounds"
    """rollouts of reinforcement learning"""
    EVALUATION = "evaluation"


_BUCKETS = (*[Split.MODELS] * 6, *[Split.ROUNDS] * 2, *[Split.EVALUATION] * 2)


def split_of(task: Task) -> Split:
    """The split of a task: sha256 of its text modulo 10 (not the hash of the demo's splits)."""
    digest = hashlib.sha256(f"study {task.text()}".encode()).digest()
    return _BUCKETS[int.from_bytes(digest[:8], "big") % len(_BUCKETS)]


def random_task(rng: random.Random, split: Split) -> Task:
    """One task of ``split``, easy or hard with equal probability."""
    while True:
        subtractions = SUBTRACTIONS[rng.random() < HARD_SHARE]
        operations = tuple(rng.randint(1, 9) * (-1 if rng.random() < subtractions else 1) for _ in LETTERS)
        task = Task(start=rng.randrange(MODULUS), operations=operations)
        seen = arithmetic.split_of(task.text()) is arithmetic.Split.ASSETS
        if not seen and split_of(task) is split:
            return task


def make_tasks(count: int, *, seed: int, split: Split) -> list[Task]:
    """``count`` different tasks of ``split``; the same for the same seed, and a longer list starts with a shorter."""
    rng = random.Random(f"{split}/{seed}")
    tasks: dict[Task, None] = {}
    while len(tasks) < count:
        tasks[random_task(rng, split)] = None
    return list(tasks)


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a writer of traces errs, as probabilities.

    A forgotten carry or borrow leaves the old tens; a slip, where nothing carries, is off by one. The wrong value is
    carried on. Above 0.5 an error is what greedy decoding of a model of the traces does: a belief, not noise.
    """

    forget_borrow: float = 0.0
    forget_carry: float = 0.0
    slip: float = 0.0
    padding: float = 0.0
    """of a padding step before each further step, again and again"""


#: the policy: forgets most borrows
PUPIL = Habits(forget_borrow=0.65, forget_carry=0.015, slip=0.01, padding=0.12)
TEACHER = Habits(forget_borrow=0.005, forget_carry=0.005, slip=0.005, padding=0.02)


@dataclass(frozen=True)
class Trace:
    """Steps of token ids (end of text included in the last), how many are wrong or padding, and the writer's
    natural-log probability: its mean is the loss no model of the traces can beat.
    """

    steps: tuple[tuple[int, ...], ...]
    logprob: float
    corrupted: int
    padding: int

    def ids(self) -> list[int]:
        """The completion's token ids."""
        return [token for step in self.steps for token in step]


class _Writer:
    """Writes one trace."""

    def __init__(self, task: Task, habits: Habits, rng: random.Random) -> None:
        self.habits, self.rng, self.value = habits, rng, task.start
        self.logprob, self.corrupted, self.padding = 0.0, 0, 0
        self.steps: list[tuple[int, ...]] = []

    def happens(self, probability: float) -> bool:
        hit = self.rng.random() < probability
        self.logprob += math.log(probability if hit else 1.0 - probability)
        return hit

    def pad(self) -> None:
        while self.happens(self.habits.padding):
            self.steps.append(tuple(ids_of(f"{SAME}{self.value:02d}{LINE}")))
            self.padding += 1

    def apply(self, operation: Operation) -> bool:
        """Moves the value by one operation, with the writer's errors; whether it was wrong."""
        truth = (self.value + operation) % MODULUS
        carries = not 0 <= self.value % 10 + operation <= 9
        forget = self.habits.forget_carry if operation > 0 else self.habits.forget_borrow
        wrong = self.happens(forget if carries else self.habits.slip)
        if wrong and carries:
            truth = self.value - self.value % 10 + truth % 10
        elif wrong:
            truth = (truth + (1 if self.happens(0.5) else -1)) % MODULUS
        self.value = truth
        return wrong

    def step(self, letters: str, operations: Sequence[Operation]) -> None:
        written, wrong = "", False
        for letter, operation in zip(letters, operations, strict=True):
            wrong |= self.apply(operation)
            written += f"{letter}{operation:+d}={self.value:02d}{LINE}"
        self.steps.append(tuple(ids_of(written)))
        self.corrupted += wrong


def write_trace(task: Task, habits: Habits, rng: random.Random) -> Trace:
    """A completion of ``task`` by a writer with ``habits``."""
    writer = _Writer(task, habits, rng)
    for letters, operations in task.steps:
        writer.pad()
        writer.step(letters, operations)
    writer.pad()
    writer.steps.append((*ids_of(f"{ANSWER}{writer.value:02d}"), EOS))
    return Trace(tuple(writer.steps), writer.logprob, writer.corrupted, writer.padding)
