"""Signal `outcome`: is the answer right? A verifier compares a rollout's text with its prompt's reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pass_ops.shards import signal_schema
from pipelines.options import options
from pipelines.signals.base import SignalOptionError
from pipelines.signals.calls import VerifyingSignal, texts
from pipelines.signals.columns import columnar_sidecar
from pipelines.verifiers.batches import Columns
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
        asked = rollouts.select(["text", "answer"])
        has_R = asked["answer"].is_valid()
        asked = asked.filter(has_R)
        results = self.verify(Columns(texts(asked["text"]), texts(asked["answer"])))
        found = zip(*[*map(self._columns, results), _NO_ANSWER], strict=True)  # the last is of rows without an answer
        has = has_R.to_numpy()
        place_R = pa.array(np.where(has, np.cumsum(has) - 1, len(results)))
        columns = {
            name: pa.array(column, _TYPES.field(name).type).take(place_R)
            for name, column in zip(_COLUMNS, found, strict=True)
        }
        status, detail = columns.pop("status"), columns.pop("detail")
        return columnar_sidecar(self.kind, rollouts, columns, status=status, detail=detail)

    def _columns(self, result: CallResult) -> tuple[Any, ...]:
        """A row of _COLUMNS."""
        if result.status == "ok":
            return "ok", None, *result.value
        rewarded = result.status == "timeout" and self.timeout_reward is not None
        return "ok" if rewarded else result.status, result.detail, self.timeout_reward, result.status, None


_TYPES = signal_schema("outcome")
_COLUMNS = ("status", "detail", "outcome_reward", "verify_status", "extracted_answer")
_NO_ANSWER = ("no_input", "the prompt has no reference answer", None, "error", None)
