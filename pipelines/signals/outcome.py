"""Signal `outcome`: is the answer right? A verifier compares a rollout's text with its prompt's reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa

from pipelines.options import options
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.calls import VerifyingSignal
from pipelines.verifiers.pool import CallResult


@options(SignalOptionError)
class OutcomeSignal(VerifyingSignal):
    """Whether a rollout's answer is right, by a verifier that compares it with the prompt's reference answer."""

    kind: ClassVar[str] = "outcome"

    timeout_reward: float | None = None
    """Reward of a rollout whose verification took longer than timeout_s (default: none, the row is null). Example:
    0.0."""

    @property
    def needs_known(self) -> tuple[str, ...]:
        """Nothing: it reads the text."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The text and the reference answer."""
        return ("text", "answer")

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Verify every rollout that has a reference answer."""
        answers = rollouts["answer"].to_pylist()
        texts = rollouts["text"].to_pylist()
        calls = [(text, answer) for text, answer in zip(texts, answers, strict=True) if answer is not None]
        results = iter(self.verify(calls))
        rows = [_NO_ANSWER if answer is None else self._row(next(results)) for answer in answers]
        return sidecar(self.kind, rollouts, rows)

    def _row(self, result: CallResult) -> Row:
        if result.status == "ok":
            reward, verify_status, extracted = result.value
            values = {"outcome_reward": reward, "verify_status": verify_status, "extracted_answer": extracted}
            return Row(values=values)
        values = {"verify_status": result.status, "outcome_reward": self.timeout_reward}
        if result.status == "timeout" and self.timeout_reward is not None:
            return Row(detail=result.detail, values=values)
        return Row(result.status, result.detail, values)


_NO_ANSWER = Row("no_input", "the prompt has no reference answer", {"verify_status": "error"})
