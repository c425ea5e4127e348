"""Signal `combine`: several process signals as one, the weighted mean of their raw scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import Strict

from pass_ops.reading.ragged import list_array, list_lengths, list_values, offsets, one_chunk
from pass_ops.shards import DatasetSpec
from pipelines.options import options
from pipelines.options.types import Strings
from pipelines.parts.granularity import PROCESS_KINDS, Per
from pipelines.signals.base import SignalBase, SignalInputError, SignalOptionError
from pipelines.signals.columns import columnar_sidecar, spread

_BLOCK = 1 << 13  # scores at once: a few float64 arrays of them stay in a core's cache
_PAIRWISE = 8  # numbers from which on NumPy adds what lies together in memory pairwise


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

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing: it reads other signals."""
        return ()

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Combine score by score. Raises SignalInputError where steps end at different tokens."""
        statuses = [one_chunk(inputs[name]["status"]) for name in self.signals]
        known_R = np.logical_and.reduce([pc.equal(status, "ok").to_numpy(zero_copy_only=False) for status in statuses])
        tables = [inputs[name] for name in self.signals]
        detail = None
        if not known_R.all():
            detail = [None if known else self._reason(row, statuses) for row, known in enumerate(known_R.tolist())]
            tables = [table.filter(pa.array(known_R)) for table in tables]
        self._check_places(rollouts["rollout_id"].filter(pa.array(known_R)), tables)
        scores = [one_chunk(table["process_scores"]) for table in tables]
        counts_R = list_lengths(scores[0])
        mean_N = weighted_mean([list_values(lists) for lists in scores], self._weights(), counts_R=counts_R)
        values = {"process_scores": list_array(offsets(counts_R), mean_N)}
        if self.per == "step":
            values["process_ends"] = one_chunk(tables[0]["process_ends"])
        values = {name: lists if detail is None else spread(lists, known_R) for name, lists in values.items()}
        status = pc.if_else(pa.array(known_R), "ok", "no_input")
        return columnar_sidecar(self.kind, rollouts, values, status=status, detail=detail)

    def _reason(self, row: int, statuses: Sequence[pa.Array]) -> str:
        """Which signals a row lacks and why."""
        found = {name: status[row].as_py() for name, status in zip(self.signals, statuses, strict=True)}
        return "; ".join(f"{name}: {status}" for name, status in found.items() if status != "ok")

    def _check_places(self, rollout_ids: pa.ChunkedArray, tables: Sequence[pa.Table]) -> None:
        """All signals have their scores at the same tokens. Raises SignalInputError for the first row that has not."""
        columns = [name for name in ("process_ends", "process_scores") if name in tables[0].column_names]
        first, *others = ({name: one_chunk(table[name]) for name in columns} for table in tables)
        differ = [_differ(first, other) for other in others]
        rows = [int(np.argmax(differ_R)) for differ_R in differ if differ_R.any()]
        if not rows:
            return
        row = min(rows)
        number = next(number for number, differ_R in enumerate(differ) if differ_R[row])
        ours, theirs = (_place(found, row) for found in (first, others[number]))
        raise SignalInputError(
            f"rollout {rollout_ids[row].as_py()!r}: the steps of {self.signals[0]!r} end at {ours}, those of "
            f"{self.signals[number + 1]!r} at {theirs}; their scores cannot be averaged. Make both with the same "
            "separator."
        )


def weighted_mean(
    scores: Sequence[NDArray[np.float32]], weights: Sequence[float], *, counts_R: NDArray[np.int64]
) -> NDArray[np.float32]:
    """sum_i w_i s_i / sum_i w_i, score by score, in float64 and in the order of the signals; float32 in the end.

    scores: of each signal, all rows one after the other. counts_R: scores a row. The bits are those of `numpy.average`
    over axis 0 of each row's [signals, scores], which are stored: from eight signals on that adds a row's only score
    pairwise, as NumPy does along memory.

    >>> weighted_mean([np.float32([1, 2]), np.float32([4, 2])], [1.0, 2.0], counts_R=np.array([2]))
    array([3., 2.], dtype=float32)
    """
    total, mean_N = np.sum(np.asarray(weights, np.float64)), np.empty(len(scores[0]), np.float32)
    for start in range(0, len(mean_N), _BLOCK):
        block = slice(start, start + _BLOCK)
        summed = np.zeros(len(mean_N[block]))  # as NumPy begins: -0.0 alone sums to 0.0
        for values_N, weight in zip(scores, weights, strict=True):
            summed += values_N[block].astype(np.float64) * weight
        mean_N[block] = summed / total
    if len(scores) >= _PAIRWISE:
        alone = offsets(counts_R)[:-1][counts_R == 1]
        only = np.stack([values_N[alone] for values_N in scores], axis=1).astype(np.float64)
        mean_N[alone] = np.average(only, axis=1, weights=weights)
    return mean_N


def _differ(one: Mapping[str, pa.ListArray], other: Mapping[str, pa.ListArray]) -> NDArray[np.bool_]:
    """Rows whose scores are not at the same tokens."""
    rows = len(one["process_scores"])
    differ_R = np.zeros(rows, np.bool_)
    for name in one:
        differ_R |= list_lengths(one[name]) != list_lengths(other[name])
    if "process_ends" in one and not differ_R.any():
        differ_E = list_values(one["process_ends"]) != list_values(other["process_ends"])
        differ_R[np.repeat(np.arange(rows), list_lengths(one["process_ends"]))[differ_E]] = True
    elif "process_ends" in one:  # an error follows
        ends = (found["process_ends"].to_pylist() for found in (one, other))
        differ_R |= np.array([a != b for a, b in zip(*ends, strict=True)], np.bool_)
    return differ_R


def _place(found: Mapping[str, pa.ListArray], row: int) -> list[int] | int:
    return found["process_ends"][row].as_py() if "process_ends" in found else len(found["process_scores"][row])
