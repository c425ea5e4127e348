"""Signal `combine`: several process signals as one, the weighted mean of their raw scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pass_ops.shards import DatasetSpec
from pipelines.signals.base import Row, SignalBase, SignalInputError, SignalOptionError, sidecar


@dataclass(frozen=True, kw_only=True)
class CombineSignal(SignalBase):
    """process_scores = sum_i w_i * s_i / sum_i w_i, step by step; null where one of them is null.

    signals: names of process signals, all per step with equal process_ends (per = "step") or all per token (per =
    "token"). weights: one each, 0 or more (None = all 1).
    """

    signals: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    per: Literal["step", "token"] = "step"

    def __post_init__(self) -> None:
        if len(self.signals) < 2 or len(set(self.signals)) < len(self.signals):
            raise SignalOptionError(f"signals is {list(self.signals)}; name at least two different process signals")
        weights = self._weights()
        if len(weights) != len(self.signals):
            raise SignalOptionError(f"there are {len(weights)} weights for {len(self.signals)} signals; give one each")
        if not all(weight >= 0 and math.isfinite(weight) for weight in weights) or sum(weights) == 0:
            raise SignalOptionError(f"weights is {list(weights)}; each is 0 or more, and not all are 0")

    def _weights(self) -> tuple[float, ...]:
        return self.weights if self.weights is not None else (1.0,) * len(self.signals)

    @property
    def kind(self) -> str:
        """That of the signals it combines."""
        return "process_steps" if self.per == "step" else "process_tokens"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The signals it combines."""
        return self.signals

    def options(self) -> dict[str, Any]:
        """Weights left out are written as what they are."""
        return {**super().options(), "weights": self._weights()}

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """All signals are of the kind that `per` says."""
        for name in self.signals:
            kind = inputs[name].options.get("kind")
            if kind != self.kind:
                raise SignalInputError(
                    f"the signal {name!r} is of kind {kind}; with per = {self.per!r} all must be of kind {self.kind}"
                )

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Combine row by row. Raises SignalInputError where steps end at different tokens."""
        tables = {name: inputs[name].to_pylist() for name in self.signals}
        ids = rollouts["rollout_id"].to_pylist()
        rows = [
            self._row(rollout_id, {name: tables[name][i] for name in self.signals}) for i, rollout_id in enumerate(ids)
        ]
        return sidecar(self.kind, rollouts, rows)

    def _row(self, rollout_id: str, given: Mapping[str, Mapping[str, Any]]) -> Row:
        lacking = [f"{name}: {row['status']}" for name, row in given.items() if row["status"] != "ok"]
        if lacking:
            return Row("no_input", "; ".join(lacking))
        places = {name: row.get("process_ends", len(row["process_scores"])) for name, row in given.items()}
        first = self.signals[0]
        for name, place in places.items():
            if place != places[first]:
                raise SignalInputError(
                    f"rollout {rollout_id!r}: the steps of {first!r} end at {places[first]}, those of {name!r} at "
                    f"{place}; "
                    "their scores cannot be averaged. Make both with the same separator."
                )
        scores = np.array([row["process_scores"] for row in given.values()], dtype=np.float64)
        values = {"process_scores": np.average(scores, axis=0, weights=self._weights()).astype(np.float32)}
        if self.per == "step":
            values["process_ends"] = places[first]
        return Row(values=values)
