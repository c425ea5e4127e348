"""What a verifier is: a function from a completion and its reference answer to a verdict.

    def verify(text: str, answer: str, **options) -> Verdict

It runs in a child process with a time limit (`pipelines.verifiers.pool`), so it may hang or crash. An answer of the
*model* that cannot be parsed is a verdict (`unparseable`); a *reference* answer that cannot be parsed is the data's
fault: raise ValueError, and the row's reward is null with status error. Stdlib only: the child processes import this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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


def plain_verdict(value: object) -> tuple[float, str, str | None]:
    """(outcome_reward, verify_status, extracted_answer) of what a verifier returned: a Verdict, or a bool for short.

    Raises TypeError for anything else and ValueError for a reward that is no finite number.

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
    if not math.isfinite(reward):
        raise ValueError(f"the verifier's reward is {reward}; it must be finite")
    return reward, status, None if verdict.extracted is None else str(verdict.extracted)
