"""The demo's world: chains of 6 to 10 additions and subtractions of one digit, left to right, modulo 100.

A prompt is the start value and the operations, each under its letter; a completion is one line a step and the answer
(here between bars):

    prompt       57a+9b-8c+4?
    completion   a+9=66 | b-8=58 | =58 | c+4=62 | A62

``=58`` is a *padding line*: it says again what is already known. Every line can be checked on its own, given the value
carried so far, which is what makes the world a test bed for process supervision. The module is pure Python.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

LETTERS = "abcdefghij"
STEP_SEPARATOR = "\n"
#: every character a prompt or a completion can hold
CHARACTERS = "0123456789" + LETTERS + "+-=A?" + STEP_SEPARATOR
#: what the ``format`` signal looks for: every line parses and an answer ends the completion
FORMAT_PATTERN = r"\A(?:(?:[a-j][+-][1-9])?=\d\d\n)+A\d\d\Z"
#: what the ``outcome`` signal extracts the answer with (group 1)
ANSWER_PATTERN = r"(?:\A|\n)A(\d\d)\Z"
#: the tokens of the longest completion with 9 padding lines; longer ones are cut
MAX_COMPLETION_TOKENS = 112

_MODULUS = 100
_PROMPT = re.compile(r"(\d\d)((?:[a-j][+-][1-9])+)\?")
_LINE = re.compile(r"(?:([a-j])([+-])([1-9]))?=(\d\d)")
_ANSWER_LINE = re.compile(r"A(\d\d)")


@dataclass(frozen=True)
class Operation:
    """One step of a chain: add or subtract ``digit`` (1 to 9)."""

    sign: str
    digit: int

    def apply(self, value: int) -> int:
        """The value after the step, modulo 100."""
        return (value + (self.digit if self.sign == "+" else -self.digit)) % _MODULUS

    def carries(self, value: int) -> bool:
        """Whether the step changes the tens of ``value``: a carry in an addition, a borrow in a subtraction."""
        ones = value % 10
        return ones + self.digit >= 10 if self.sign == "+" else ones < self.digit

    def forget_carry(self, value: int) -> int:
        """The value after the step with its carry or borrow left out: right ones, old tens."""
        return value - value % 10 + self.apply(value) % 10


@dataclass(frozen=True)
class Chain:
    """A parsed prompt."""

    start: int
    operations: tuple[Operation, ...]

    def answer(self) -> int:
        """The value after all operations."""
        value = self.start
        for operation in self.operations:
            value = operation.apply(value)
        return value


def format_prompt(chain: Chain) -> str:
    """The prompt of ``chain``, the inverse of `parse_prompt`."""
    steps = (f"{letter}{op.sign}{op.digit}" for letter, op in zip(LETTERS, chain.operations, strict=False))
    return f"{chain.start:02d}{''.join(steps)}?"


@lru_cache(maxsize=64)  # the rollouts of a group share it
def parse_prompt(prompt: str) -> Chain:
    """The chain of ``prompt``. Raises ValueError where it is not a prompt of this world."""
    match = _PROMPT.fullmatch(prompt)
    steps = re.findall(r"([a-j])([+-])(\d)", match[2]) if match else []
    if match is None or [letter for letter, _, _ in steps] != list(LETTERS[: len(steps)]):
        raise ValueError(
            f"{prompt!r} is not a prompt of the arithmetic task, so its steps cannot be checked; "
            "prompts read like '57a+9b-8c+4?', letters in order"
        )
    return Chain(start=int(match[1]), operations=tuple(Operation(sign, int(digit)) for _, sign, digit in steps))


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and their splits


class Split(StrEnum):
    """Which use a prompt is kept for; decided by its own text, so no list has to be kept."""

    ASSETS = "assets"
    """training of the shipped models"""
    ROUNDS = "rounds"
    """rollouts of the reinforcement learning rounds"""
    HELD_OUT = "held_out"
    """evaluation"""


def split_of(prompt: str) -> Split:
    """The split of a prompt: sha256 of its text modulo 10; 0 to 5 assets, 6 to 7 rounds, 8 to 9 held out."""
    bucket = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 10
    return Split.ASSETS if bucket < 6 else Split.ROUNDS if bucket < 8 else Split.HELD_OUT


def random_prompt(rng: random.Random, split: Split) -> str:
    """One prompt of ``split``: 6 to 10 operations, all choices uniform."""
    while True:
        operations = tuple(Operation(rng.choice("+-"), rng.randint(1, 9)) for _ in range(rng.randint(6, 10)))
        prompt = format_prompt(Chain(start=rng.randrange(_MODULUS), operations=operations))
        if split_of(prompt) is split:
            return prompt


def make_prompts(count: int, *, seed: int, split: Split) -> list[str]:
    """``count`` different prompts of ``split``; the same for the same seed, and a longer list starts with a shorter."""
    rng = random.Random(f"{split}/{seed}")
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        prompts[random_prompt(rng, split)] = None
    return list(prompts)


def prompt_rows(count: int, *, seed: int, split: Split) -> list[dict[str, str]]:
    """`make_prompts` as rows of a prompt file: prompt_id, prompt, answer (two digits)."""
    return [
        {"prompt_id": f"{split}-{seed}-{index:05d}", "prompt": prompt, "answer": solve(prompt)}
        for index, prompt in enumerate(make_prompts(count, seed=seed, split=split))
    ]


def solve(prompt: str) -> str:
    """The answer of a prompt, two digits."""
    return f"{parse_prompt(prompt).answer():02d}"


# ---------------------------------------------------------------------------------------------------------------------
# Traces to learn from


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a writer of traces errs, as probabilities.

    A forgotten carry or borrow leaves the old tens; a slip, where nothing carries, is off by one. Large borrows are
    those of subtracting 7, 8 or 9. The wrong value is carried on. Above 0.5 an error is what greedy decoding of a
    model trained on the traces does: a mistaken belief, not noise of sampling.
    """

    forget_large_borrow: float = 0.0
    forget_carry: float = 0.0
    slip: float = 0.0
    padding: float = 0.0
    """of a padding line before each further line, again and again"""

    def error_rate(self, value: int, operation: Operation) -> float:
        """The probability of a wrong step from ``value``."""
        if not operation.carries(value):
            return self.slip
        return self.forget_large_borrow if operation.sign == "-" and operation.digit >= 7 else self.forget_carry


#: what the policy learns from: two of three of its chains end wrong, most of them by a forgotten large borrow
PUPIL = Habits(forget_large_borrow=0.58, forget_carry=0.12, slip=0.04, padding=0.12)
#: what the teacher learns from
TEACHER = Habits(forget_large_borrow=0.01, forget_carry=0.01, slip=0.01, padding=0.02)
#: what the process reward model learns from: wrong steps of every kind in plenty
GRADED = Habits(forget_large_borrow=0.4, forget_carry=0.3, slip=0.2, padding=0.15)


@dataclass(frozen=True)
class Trace:
    """A completion and its natural-log probability under the habits that wrote it (end of text included)."""

    text: str
    logprob: float


def write_trace(prompt: str, habits: Habits, rng: random.Random) -> Trace:
    """A completion of ``prompt`` by a writer with ``habits``.

    The mean of -logprob over traces is the cross-entropy no model of them can beat: training has converged where the
    validation loss has come down to it.
    """
    chain = parse_prompt(prompt)
    value, logprob = chain.start, 0.0
    lines: list[str] = []

    def happens(probability: float) -> bool:
        nonlocal logprob
        hit = rng.random() < probability
        logprob += math.log(probability if hit else 1.0 - probability)
        return hit

    def pad() -> None:
        while happens(habits.padding):
            lines.append(f"={value:02d}")

    for letter, operation in zip(LETTERS, chain.operations, strict=False):
        pad()
        truth = operation.apply(value)
        if not happens(habits.error_rate(value, operation)):
            value = truth
        elif operation.carries(value):
            value = operation.forget_carry(value)
        else:
            value = (truth + (1 if happens(0.5) else -1)) % _MODULUS
        lines.append(f"{letter}{operation.sign}{operation.digit}={value:02d}")
    pad()
    lines.append(f"A{value:02d}")
    return Trace(text=STEP_SEPARATOR.join(lines), logprob=logprob)


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def split_steps(completion: str) -> list[str]:
    """The steps of a completion: its lines, empty ones dropped."""
    return [line for line in completion.split(STEP_SEPARATOR) if line]


def right_lines(prompt: str, written: Sequence[str]) -> tuple[str | None, str | None]:
    """The two lines that are right after the lines ``written``: the one that goes on, and the padding line.

    Truth is local: it builds on the value carried so far, the last value written, right or not. The line that goes on
    applies the next operation; once every operation has been written it is the answer, and after an answer nothing is
    right (None, None). Operations come in order and once. Where one was skipped the lines go on from there, but no
    answer is right any more: (None, padding line) after the last operation.
    """
    return list(right_lines_in_turn(prompt, written))[-1]


def right_lines_in_turn(prompt: str, written: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """`right_lines` before each of the lines, and after the last: each line is read once."""
    chain = parse_prompt(prompt)
    value, due, missing = chain.start, 0, set(LETTERS[: len(chain.operations)])
    yield _right_lines(chain, value, due, complete=not missing)
    lines = iter(written)
    for line in lines:
        if _ANSWER_LINE.fullmatch(line):
            yield None, None
            break
        if match := _LINE.fullmatch(line):
            value = int(match[4])
            if letter := match[1]:
                due = max(due, LETTERS.index(letter) + 1)
                missing.discard(letter)
        yield _right_lines(chain, value, due, complete=not missing)
    for _ in lines:
        yield None, None


def _right_lines(chain: Chain, value: int, due: int, *, complete: bool) -> tuple[str | None, str | None]:
    """value: carried so far. due: the operation after the last one written. complete: whether all have been."""
    padding = f"={value:02d}"
    if due < len(chain.operations):
        operation = chain.operations[due]
        return f"{LETTERS[due]}{operation.sign}{operation.digit}={operation.apply(value):02d}", padding
    return (f"A{value:02d}" if complete else None), padding


def check_step(prompt: str, steps: Sequence[str], index: int, *, padding: float = 0.5) -> float:
    """Score step ``index`` by computing it: 1.0 right, ``padding`` for a true padding line, 0.0 for any other line.

    What is right is what `right_lines` says after the steps before. A forgotten carry thus costs its own line only,
    a skipped operation the line that skips it and the answer. ``padding`` is what a line that is true and useless is
    worth: below the mean score of a group's steps it is discouraged, above it padding pays.
    """
    return _score(steps[index], right_lines(prompt, steps[:index]), padding)


def check_steps(prompt: str, steps: Sequence[str], *, padding: float = 0.5) -> list[float]:
    """`check_step` of every step, in time linear in their number."""
    return [
        _score(step, right, padding) for step, right in zip(steps, right_lines_in_turn(prompt, steps), strict=False)
    ]  # the last pair is of the line after all


def _score(step: str, right: tuple[str | None, str | None], padding: float) -> float:
    forward, pad = right
    return 1.0 if step == forward else padding if step == pad else 0.0


def extract_answer(completion: str) -> str | None:
    """The two digits of the answer line that ends the completion, None where there is none."""
    match = re.search(ANSWER_PATTERN, completion)
    return match[1] if match else None


def check_outcome(prompt: str, completion: str) -> bool:
    """Whether the completion ends with the right answer, however it came to it."""
    return extract_answer(completion) == solve(prompt)


def check_format(completion: str) -> bool:
    """Whether every line parses and an answer ends the completion (`FORMAT_PATTERN`)."""
    return re.search(FORMAT_PATTERN, completion) is not None


def padding_lines(completion: str) -> int:
    """How many lines of the completion are padding, true or not."""
    return sum(step.startswith("=") for step in split_steps(completion))
