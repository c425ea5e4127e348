"""What a verifier is: a function from a completion and its reference answer to a verdict.

    def verify(text: str, answer: str, **options) -> Verdict

It runs in a child process with a time limit (`pipelines.verifiers.pool`), so it may hang or crash. An answer of the
*model* that cannot be parsed is a verdict (`unparseable`); a *reference* answer that cannot be parsed is the data's
fault: raise ValueError, and the row's reward is null with status error. Stdlib only: the child processes import this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verifier found.

    reward: None = 1.0 where correct, else 0.0; a verifier with partial credit sets it. extracted: the model's answer as
    it was read. unparseable: the text holds no answer that could be read; not correct then.
    """

    correct: bool
    reward: float | None = None
    extracted: str | None = None
    unparseable: bool = False


def listed_strings(answer: str) -> list[str] | None:
    """The elements of a reference answer that is a JSON list of strings, which a list in a source becomes; else None.

    >>> listed_strings('["NYC", "New York"]'), listed_strings("[0, 1]"), listed_strings("NYC")
    (['NYC', 'New York'], None, None)
    """
    try:
        loaded = json.loads(answer)
    except ValueError:
        return None
    strings = isinstance(loaded, list) and bool(loaded) and all(isinstance(one, str) for one in loaded)
    return loaded if strings else None


def plain_verdict(value: object) -> tuple[float, str, str | None]:
    """(outcome_reward, verify_status, extracted_answer) of what a verifier returned: a Verdict, or a bool for short.

    Raises TypeError for anything else and ValueError for a reward that float32 cannot hold.

    >>> plain_verdict(Verdict(correct=True, extracted="72"))
    (1.0, 'ok', '72')
    >>> plain_verdict(False)
    (0.0, 'wrong', None)
    """
    verdict = Verdict(correct=value) if isinstance(value, bool) else value
    if not isinstance(verdict, Verdict):
        raise TypeError(f"the verifier returned {type(value).__name__}; it must return a Verdict or a bool")
    status = "unparseable" if verdict.unparseable else "ok" if verdict.correct else "wrong"
    reward = float(status == "ok") if verdict.reward is None else float(verdict.reward)
    if not abs(reward) <= FLOAT32_MAX:
        raise ValueError(f"the verifier's reward is {reward}; it must be a finite float32 number")
    return reward, status, None if verdict.extracted is None else str(verdict.extracted)


def plain_bool(value: object) -> bool:
    """What a format function returned; raises TypeError for anything but a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"the function returned {type(value).__name__}; it must return True or False")
    return value


def plain_context(value: object) -> str | list[dict[str, str]] | None:
    """What a context function returned: a text, messages, or None; raises TypeError for anything else."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise TypeError(f"the function returned {type(value).__name__}; it must return a text, messages or None")
    for message in value:
        keys = sorted(message) if isinstance(message, dict) else type(message).__name__
        if keys != ["content", "role"] or not all(isinstance(said, str) for said in message.values()):
            raise TypeError(f"the function returned a message of {keys}; it must have role and content, both texts")
    return [dict(message) for message in value]


def plain_scores(value: Iterable[float]) -> list[float]:
    """What a step checker returned, as a list of floats; raises ValueError for one that float32 cannot hold."""
    scores = [float(score) for score in value]
    for index, score in enumerate(scores):
        if not abs(score) <= FLOAT32_MAX:
            raise ValueError(f"the score of step {index} is {score}; scores must be finite float32 numbers")
    return scores
