"""A calculator for the arithmetic task: the policy writes a line up to "=", the tool writes what it comes to."""

from __future__ import annotations

import re

from pipelines.demo.arithmetic import Chain, Operation, parse_prompt
from pipelines.programs.base import Prompt, Sampler

_LINE = re.compile(r"(?:[a-j]([+-])([1-9]))?=")


async def calculator(prompt: Prompt, sample: Sampler) -> None:
    """Inserts the two digits after each "=" of a line of the arithmetic task; reads the value carried from the text.

    A line that is none of the task's gets no answer, and the policy goes on by itself. Raises ValueError for a prompt
    of another task.
    """
    chain = parse_prompt(prompt.text or "")
    while (await sample(stop=["="])).stop is not None:
        if (digits := result(chain, sample.text)) is not None:
            sample.insert(digits)


def result(chain: Chain, text: str) -> str | None:
    r"""What the last line of a completion, cut after its "=", comes to; None where the line is not understood.

    >>> result(parse_prompt("57a+9b-8c+4d+1e+1f+1?"), "a+9=66\nb-8=")
    '58'
    """
    *before, line = text.split("\n")
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    known = [found[1] for earlier in before if (found := re.search(r"=(\d\d)$", earlier))]
    value = int(known[-1]) if known else chain.start
    sign, digit = match.groups()
    return f"{Operation(sign, int(digit)).apply(value) if sign else value:02d}"
