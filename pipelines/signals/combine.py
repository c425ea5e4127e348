"""Signal `combine`: several process signals as one, the weighted mean of their raw scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from pydantic import Strict

from pass_ops.shards import DatasetSpec
from pipelines.options import options
from pipelines.options.types import Strings
from pipelines.parts.granularity import PROCESS_KINDS, Per
from pipelines.signals.base import Row, SignalBase, SignalInputError, SignalOptionError, sidecar


@options(SignalOptionError)
class CombineSignal(SignalBase):
    """The weighted mean of several process signals' raw scores, sum_i w_i s_i / sum_i w_i, score by score.

    A row is null where one of them is null.
    """

    signals: Strings
    """Names of at least two process signals, all per step with the same step ends, or all per token. Example: ["prm",
    "equations"]."""
    weights: Annotated[tuple[Annotated[float, Ge(0)], ...], Strict(False)] | None = None
    """One weight for each of them, not all 0 (default: all 1). Example: [0.7, 0.3]."""
    per: Per = "step"
    """Whether those signals have one score per step or one per token."""

    def __post_init__(self) -> None:
        if len(self.signals) < 2 or len(set(self.signals)) < len(self.signals):
            raise SignalOptionError(f"signals is {list(self.signals)}; name at least two different process signals")
        weights = self._weights()
        if len(weights) != len(self.signals):
            raise SignalOptionError(f"there are {len(weights)} weights for {len(self.signals)} signals; give one each")
        if sum(weights) == 0:
            raise SignalOptionError(f"weights is {list(weights)}; at least one must be above 0")

    def _weights(self) -> tuple[float, ...]:
        return self.weights if self.weights is not None else (1.0,) * len(self.signals)

    @property
    def kind(self) -> str:
        """That of the signals it combines."""
        return PROCESS_KINDS[self.per]

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

    @property
    def needs_known(self) -> tuple[str, ...]:
        """Nothing: it reads other signals."""
        return ()

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
