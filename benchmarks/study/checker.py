"""Judges completions by computing them: steps, local truth, format and outcome. Independent of what writes traces.

Truth is local: a step builds on the value carried so far, the last value written, right or not; one of several
operations is right where all are. Steps come in order and once. Where one was skipped they go on from there, and no
answer is right any more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.study.alphabet import ANSWER, EOS, GROUPS, LETTERS, SAME, TOKEN, step_ends, text

#: the truth of a padding step that says what is carried
NEUTRAL = 0.5
_OPERATION = r"[+-][1-9]=\d\d\n"
_FORMS = re.compile(
    "|".join(["".join(letter + _OPERATION for letter in group) for group in GROUPS] + [r"=\d\d\n", r"A\d\d"])
)
_FIRST = "".join(group[0] for group in GROUPS)


@dataclass(frozen=True)
class Judged:
    """One completion. Per step: exclusive token ends (the end of text belongs to the last step), truth (1 right, 0.5 a
    true padding step, 0 otherwise), whether it is of padding's form. Then the rollout's outcome and format.
    """

    ends: tuple[int, ...]
    truth: tuple[float, ...]
    padding: tuple[bool, ...]
    outcome: bool
    format_ok: bool


def parse_prompt(prompt: Sequence[int]) -> tuple[int, list[list[int]]]:
    """Start value and each step's operations. Raises ValueError where it is no prompt of this world."""
    words = text(prompt)
    match = re.fullmatch(r"(\d\d)((?:[a-j][+-][1-9])+)\?", words)
    if match is None or "".join(re.findall("[a-j]", words)) != LETTERS:
        raise ValueError(f"{words!r} is not a prompt of the study's world, so its steps cannot be judged")
    operations = [int(one) for one in re.findall(r"[+-]\d", match[2])]
    return int(match[1]), [operations[LETTERS.index(group[0]) :][: len(group)] for group in GROUPS]


def judge(prompt: Sequence[int], completion: Sequence[int]) -> Judged:
    """Every step of a completion (token ids, end of text included where it was written)."""
    value, operations = parse_prompt(prompt)
    goal = (value + sum(map(sum, operations))) % 100
    ends = step_ends(completion)
    truth, padding, due, in_order, forms = [], [], 0, True, True
    answer: int | None = None
    for start, end in zip((0, *ends), ends, strict=False):
        tokens = completion[start:end]
        words = text(tokens)
        padding.append(tokens[0] == TOKEN[SAME])
        formed = _FORMS.fullmatch(words) is not None and answer is None
        forms &= formed
        if not formed:
            truth.append(0.0)
            continue
        written = int(words.strip()[-2:])
        if words[0] == SAME:
            truth.append(NEUTRAL if written == value else 0.0)
        elif words[0] == ANSWER:
            answer = written
            right = written == value and due == len(operations) and in_order and completion[-1] == EOS
            truth.append(float(right))
        else:
            index = _FIRST.index(words[0])
            right = index == due and due < len(operations) and words == _right_step(index, operations[due], value)
            truth.append(float(right))
            in_order &= index == due
            due = index + 1
        value = written
    finished = answer is not None and completion[-1] == EOS and completion.index(EOS) == len(completion) - 1
    ok = forms and finished
    return Judged(ends, tuple(truth), tuple(padding), outcome=ok and answer == goal, format_ok=ok)


def _right_step(index: int, operations: Sequence[int], value: int) -> str:
    """The step that carries ``value`` on."""
    written = ""
    for letter, operation in zip(GROUPS[index], operations, strict=True):
        value = (value + operation) % 100
        written += f"{letter}{operation:+d}={value:02d}\n"
    return written
