"""Signal `outcome`: is the answer right? A verifier compares a rollout's text with its prompt's reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipelines.signals.base import Row, sidecar
from pipelines.signals.calls import VerifyingSignal
from pipelines.verifiers.pool import CallResult


@dataclass(frozen=True, kw_only=True)
class OutcomeSignal(VerifyingSignal):
    """outcome_reward, verify_status, extracted_answer of every rollout.

    timeout_reward: the reward of a sample that took longer than timeout_s (None = null).
    """

    kind: ClassVar[str] = "outcome"

    timeout_reward: float | None = None

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
