"""Verifier `reasoning_gym`: any task of the library reasoning-gym, by its name, with the library's own scores.

The prompt's `answer` is the JSON of the library's entry (question, answer, metadata), for the scores need its metadata:

    for entry in reasoning_gym.create_dataset("chain_sum", size=1000, seed=0):
        {"prompt": entry["question"], "answer": json.dumps(entry)}

Needs the extra `verifiers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from pass_ops.support.extras import require
from pipelines.verifiers.answers import Reasoning, answer_text
from pipelines.verifiers.base import Verdict

# Tasks whose scorers compare the answer with a tuple of tuples, which JSON turns into lists.
_TUPLE_TASKS = frozenset({"arc_agi", "rearc"})
# What scorers raise on an answer they cannot read.
_UNREADABLE = (ValueError, TypeError, LookupError, SyntaxError, ArithmeticError)


def verify(text: str, answer: str, *, task: str | None = None, reasoning: Reasoning = "skip") -> Verdict:
    """The reward is the library's score, 0 to 1; correct where it is 1.

    The text's answer is what the last <answer></answer> holds, else the whole text, stripped. task: the library's name
    of the task; None = the one in the entry's metadata. reasoning: what is read; skip: what follows the reasoning,
    required: the same, and nothing where the reasoning has no end, keep: the whole text. Raises ValueError for an entry
    or a task it does not know.
    """
    entry = _entry(answer)
    name = task or entry["metadata"].get("source_dataset")
    if not isinstance(name, str):
        raise ValueError("the entry's metadata name no source_dataset; set the option task to the library's task")
    found = answer_text(text, reasoning).strip()
    if not found:
        return Verdict(correct=False, unparseable=True)
    if name in _TUPLE_TASKS:
        entry["metadata"]["output"] = tuple(map(tuple, entry["metadata"]["output"]))
    try:
        score = float(_scorer(name)(found, entry))
    except _UNREADABLE:
        _scorer(name)(str(entry["answer"]), entry)  # raises too where the entry is at fault
        return Verdict(correct=False, unparseable=True, extracted=found)
    return Verdict(correct=score >= 1.0, reward=score, extracted=found)


def _entry(answer: str) -> dict[str, Any]:
    try:
        entry = json.loads(answer)
    except ValueError:
        entry = None
    if not (isinstance(entry, dict) and isinstance(entry.get("metadata"), dict) and "answer" in entry):
        raise ValueError(
            f"the reference answer {answer[:80]!r} is not the JSON of a reasoning-gym entry; it has answer and metadata"
        )
    return entry


@cache
def _scorer(name: str) -> Callable[[str, dict[str, Any]], float]:
    library = require("reasoning_gym", "the verifier `reasoning_gym`")
    scorer: Callable[[str, dict[str, Any]], float] = library.get_score_answer_fn(name)
    return scorer
