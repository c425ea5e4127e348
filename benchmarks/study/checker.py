"""Judges completions by computing them: steps, local truth, format and outcome. Independent of what writes traces.

Truth is local: a step builds on the value carried so far, the last value written, right or not; one of several
operations is right where all are. Steps come in order and once. Where one was skipped they go on from there, and no
answer is right any more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.study.alphabet import ANSWER, EOS, GROUPS, LETTERS, LINE, SAME, TOKEN, spans, step_ends, text

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
    carried = Carried(value)
    truth, padding, forms = [], [], True
    for start, end in spans(ends):
        words = text(completion[start:end])
        padding.append(completion[start] == TOKEN[SAME])
        forms &= carried.answer is None and _FORMS.fullmatch(words) is not None
        next_one, same = right_steps(carried, operations)
        ended = words[:1] != ANSWER or completion[-1] == EOS
        truth.append(1.0 if words == next_one and ended else NEUTRAL if words == same else 0.0)
        carried = carried.after(words)
    finished = carried.answer is not None and completion[-1] == EOS and completion.index(EOS) == len(completion) - 1
    ok = forms and finished
    return Judged(ends, tuple(truth), tuple(padding), outcome=ok and carried.answer == goal, format_ok=ok)


@dataclass(frozen=True)
class Carried:
    """What is known between two steps: the last value written, the number of the step that is due, whether steps came
    in order, and the answer once there is one.
    """

    value: int
    due: int = 0
    in_order: bool = True
    answer: int | None = None

    def after(self, words: str) -> Carried:
        """The same after a step, right or not; one of no step's form, or behind the answer, changes nothing."""
        if self.answer is not None or not _FORMS.fullmatch(words):
            return self
        value = int(words.strip()[-2:])
        if words[0] == SAME:
            return replace(self, value=value)
        if words[0] == ANSWER:
            return replace(self, value=value, answer=value)
        index = _FIRST.index(words[0])
        return replace(self, value=value, due=index + 1, in_order=self.in_order and index == self.due)


def right_steps(carried: Carried, operations: Sequence[Sequence[int]]) -> tuple[str | None, str | None]:
    """The step that goes on, where one is right, and the padding step; behind an answer nothing is right."""
    if carried.answer is not None:
        return None, None
    value, same = carried.value, f"{SAME}{carried.value:02d}{LINE}"
    if carried.due == len(operations):
        return (f"{ANSWER}{value:02d}" if carried.in_order else None), same
    written = ""
    for letter, operation in zip(GROUPS[carried.due], operations[carried.due], strict=True):
        value = (value + operation) % 100
        written += f"{letter}{operation:+d}={value:02d}{LINE}"
    return written, same
