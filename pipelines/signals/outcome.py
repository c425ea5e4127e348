"""Signal `outcome`: is the answer right? A verifier compares a rollout's text with its prompt's reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from pass_ops.shards import DatasetSpec
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.calls import CallingSignal, check_call, check_target
from pipelines.verifiers import VERIFIERS
from pipelines.verifiers.importing import source_digest
from pipelines.verifiers.pool import CallResult


@dataclass(frozen=True, kw_only=True)
class OutcomeSignal(CallingSignal):
    """outcome_reward, verify_status, extracted_answer of every rollout.

    verifier: a name of `pipelines.verifiers.VERIFIERS`, or an import path `module:function` of (text, answer,
    **options) -> Verdict; verifier_options: those options. timeout_reward: the reward of a sample that took longer than
    timeout_s (None = null).
    """

    kind: ClassVar[str] = "outcome"

    verifier: str
    verifier_options: Mapping[str, Any] = field(default_factory=dict)
    timeout_reward: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verifier not in VERIFIERS and ":" not in self.verifier:
            raise SignalOptionError(
                f"verifier is {self.verifier!r}; choose one of {', '.join(VERIFIERS)}, or give module:function"
            )
        check_target("verifier", self._target)

    @property
    def _target(self) -> str:
        return VERIFIERS.get(self.verifier, self.verifier)

    def code(self) -> dict[str, str]:
        """The user's verifier."""
        own = {} if self.verifier in VERIFIERS else {self.verifier: source_digest(self.verifier)}
        return super().code() | own

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The verifier can be called with its options."""
        check_call("verifier", self._target, ("text", "answer"), self.verifier_options)

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Verify every rollout that has a reference answer."""
        answers = rollouts["answer"].to_pylist()
        texts = rollouts["text"].to_pylist()
        calls = [(text, answer) for text, answer in zip(texts, answers, strict=True) if answer is not None]
        results = iter(
            self._call(calls, adapter="pipelines.verifiers.base:plain_verdict", options=self.verifier_options)
        )
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
