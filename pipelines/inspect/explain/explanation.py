"""`passrl explain`: one stored rollout's advantages, worked out again from the stored raw streams and compared.

The arithmetic is `pipelines.inspect.explain.arithmetic`, and `streams` beside it; it shares no code with `pass_ops`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import ShapingConfig, Statistics
from pass_ops.errors import PassError
from pass_ops.options.config import ESTIMATORS
from pass_ops.reading.stream_sources import Plan, plan
from pass_ops.shards import CompleteDataset
from pass_ops.support.nearest import advice
from pipelines.inspect.explain.arithmetic import Arithmetic, GroupArithmetic
from pipelines.inspect.explain.pools import STORED_ROUNDING, Columns, Number, PackedRow, StoredRow
from pipelines.inspect.explain.stream_group import StreamGroup
from pipelines.inspect.explain.stream_result import StreamArithmetic
from pipelines.inspect.stored import open_shaped, shaping_config
from pipelines.shaped.streams import statistics_of

_RAW = ("process_scores", "process_ends", "outcome_reward", "format_reward", "format_ok")
_AT_ONCE = 16  # rows that are Python numbers while they are packed
_MADE = ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable")


class RolloutNotFoundError(PassError, LookupError):
    """The asked rollout is not in the dataset."""


class NotExplainableError(PassError, ValueError):
    """The dataset was shaped by an estimator whose arithmetic is not known here."""


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """What the dataset holds of the rollout."""

    chunk_ends: tuple[int, ...]
    chunk_credits: tuple[float, ...]
    chunk_advantages: tuple[float, ...]
    path_score: float | None
    trainable: bool


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One rollout: where it lies, its options and raw streams, the arithmetic, and what is stored.

    row: its place within its group, from 0; size: the group's rollouts. statuses: why signals are missing, by name.
    disagreements: where the arithmetic does not give the stored values beyond rounding; empty where all is well.
    largest_difference: between a computed number and the stored float32.
    """

    dataset: str
    part: int
    row: int
    size: int
    options: Mapping[str, Any]
    token_ids: tuple[int, ...]
    rollout: StoredRow
    verify_status: str | None
    statuses: Mapping[str, str]
    arithmetic: Arithmetic | StreamArithmetic
    stored: StoredResult
    disagreements: tuple[str, ...]
    largest_difference: float

    @property
    def agrees(self) -> bool:
        """Whether the arithmetic gives what is stored."""
        return not self.disagreements


def explain_rollout(run: str, rollout_id: str, *, round_index: int = 0, name: str = "shaped") -> Explanation:
    """Explain a rollout of a run's round, or of the shaped dataset at `run` itself.

    Raises:
        RolloutNotFoundError: no such rollout; names near ones.
        NotShapedError, NotADatasetError, IncompleteDatasetError: nothing shaped there.
        NotExplainableError: it was shaped by an estimator given by import path, or by a method of its own file.
        OptionError: a stream's transform is a function that cannot be imported here.
    """
    dataset = open_shaped(run, round_index=round_index, name=name)
    part = _find(dataset, rollout_id)
    config = shaping_config(dataset.spec)
    table = _group(dataset, part, rollout_id, config)
    if config.estimator not in ESTIMATORS:
        whose = "your own estimator" if ":" in config.estimator else "estimator"
        raise NotExplainableError(
            f"{dataset.url} was shaped by {whose} {config.estimator!r}; explain spells out the arithmetic "
            f"of {', '.join(ESTIMATORS)}, and of streams. `passrl inspect` shows what it made of each chunk"
        )
    ids = table["rollout_id"].to_pylist()
    index = ids.index(rollout_id)
    chosen = table.slice(index, 1).to_pylist()[0]
    names = table.column_names
    statistics = statistics_of(dataset.spec, config)
    arithmetic, stored, disagreements, largest = check_group(table, index, config, statistics=statistics)
    return Explanation(
        dataset=dataset.url,
        part=part,
        row=index,
        size=len(ids),
        options=config.plain(),
        token_ids=tuple(chosen["token_ids"]),
        rollout=_stored_row(table, index, config),
        verify_status=chosen.get("verify_status"),
        statuses={
            column.removeprefix("status_"): "; ".join(
                filter(None, [chosen[column], chosen.get(column.replace("status_", "detail_", 1))])
            )
            for column in names
            if column.startswith("status_") and chosen[column] != "ok"
        },
        arithmetic=arithmetic,
        stored=stored,
        disagreements=disagreements,
        largest_difference=largest,
    )


def check_group(
    table: pa.Table, index: int, config: ShapingConfig, *, statistics: Statistics | None = None
) -> tuple[Arithmetic | StreamArithmetic, StoredResult, tuple[str, ...], float]:
    """Work out row `index` of a table that holds one shaped group, and compare with what it stores.

    statistics: what was recorded of pools of the whole dataset.
    Returns the arithmetic, the stored result, the disagreements, and the largest difference of a number.
    """
    return CheckedGroup(table, config, statistics=statistics).row(index)


class CheckedGroup:
    """`check_group` for any row of one table; what the rows share is worked out once.

    planned: the plan of the dataset's tables under the config's streams, where it is at hand.
    """

    def __init__(
        self,
        table: pa.Table,
        config: ShapingConfig,
        *,
        statistics: Statistics | None = None,
        planned: Plan | None = None,
    ) -> None:
        names = table.column_names
        self._made, self._lengths = table.select(_MADE), pc.list_value_length(table["loss_mask"]).to_pylist()
        self._group: GroupArithmetic | StreamGroup
        if config.streams is not None:
            recorded = None if statistics is None else statistics.pools
            self._group = StreamGroup(table, config=config, recorded=recorded, planned=planned)
        else:
            columns = Columns(format_reward="format_reward" in names, format_ok="format_ok" in names)
            self._group = GroupArithmetic(_packed_rows(table, config), config=config, columns=columns)

    def row(self, index: int) -> tuple[Arithmetic | StreamArithmetic, StoredResult, tuple[str, ...], float]:
        """The row's arithmetic, its stored result, the disagreements, and the largest difference of a number."""
        made = self._made.slice(index, 1).to_pylist()[0]
        stored = StoredResult(
            chunk_ends=tuple(made["chunk_ends"]),
            chunk_credits=tuple(made["chunk_credits"]),
            chunk_advantages=tuple(made["chunk_advantages"]),
            path_score=made["path_score"],
            trainable=made["trainable"],
        )
        arithmetic = self._group.row(index, frozenset(stored.chunk_ends))
        disagreements, largest = _compare(arithmetic, stored, length=self._lengths[index])
        return arithmetic, stored, disagreements, largest


def _stored_row(table: pa.Table, index: int, config: ShapingConfig) -> StoredRow:
    """The raw streams of a row. Scores per token have no ends, whatever the table holds."""
    row = _raw(table).slice(index, 1).to_pylist()[0]
    return StoredRow(
        rollout_id=table["rollout_id"][index].as_py(),
        mask=tuple(row["loss_mask"]),
        scores=_tuple(row.get("process_scores")),
        ends=_tuple(row.get("process_ends")) if config.signal == "prm" else None,
        outcome=row.get("outcome_reward"),
        format=row.get("format_reward"),
        ok=row.get("format_ok"),
    )


def _packed_rows(table: pa.Table, config: ShapingConfig) -> list[PackedRow]:
    """Those of every row, as arrays: as Python numbers they would take tens of bytes a token."""
    packed = []
    for row in (row for some in _raw(table).to_batches(max_chunksize=_AT_ONCE) for row in some.to_pylist()):
        scores, ends = row.get("process_scores"), row.get("process_ends") if config.signal == "prm" else None
        packed.append(
            PackedRow(
                mask=bytes(row["loss_mask"]),
                scores=None if scores is None else array("d", scores),
                ends=None if ends is None else array("l", ends),
                outcome=row.get("outcome_reward"),
                format=row.get("format_reward"),
                ok=row.get("format_ok"),
            )
        )
    return packed


def _raw(table: pa.Table) -> pa.Table:
    return table.select(["loss_mask", *(name for name in _RAW if name in table.column_names)])


def _compare(
    arithmetic: Arithmetic | StreamArithmetic, stored: StoredResult, *, length: int
) -> tuple[tuple[str, ...], float]:
    if arithmetic.trainable != stored.trainable:
        return (f"trainable is {stored.trainable} as stored and {arithmetic.trainable} by the arithmetic",), 0.0
    zero = Number(0.0)
    expected = [(chunk.end, chunk.credit, chunk.advantage) for chunk in arithmetic.chunks]
    if not arithmetic.trainable:
        expected = [(length, zero, zero)] if length else []
    ends = tuple(end for end, _, _ in expected)
    if ends != stored.chunk_ends:
        return (f"chunks end at {_short(stored.chunk_ends)} as stored and at {_short(ends)} by the arithmetic",), 0.0
    compared = [
        (f"chunk {j}: {what}", value, number)
        for j, (_, credit, advantage) in enumerate(expected, start=1)
        for what, value, number in (
            ("credit", stored.chunk_credits[j - 1], credit),
            ("advantage", stored.chunk_advantages[j - 1], advantage),
        )
    ]
    found = []
    if (arithmetic.path_score is None) != (stored.path_score is None):
        found.append(f"path score is {stored.path_score} as stored; by the arithmetic there is one only otherwise")
    elif arithmetic.path_score is not None and stored.path_score is not None:
        compared.append(("path score", stored.path_score, arithmetic.path_score))
    found += [
        f"{what} is {value!r} as stored and {number.value!r} by the arithmetic"
        for what, value, number in compared
        if abs(value - number.value) > number.rounding + STORED_ROUNDING * abs(number.value) + 1e-38
    ]
    return tuple(found), max((abs(value - number.value) for _, value, number in compared), default=0.0)


def _find(dataset: CompleteDataset, rollout_id: str) -> int:
    group = rollout_id.rpartition("/")[0]
    others: dict[str, None] = {}
    for part in range(len(dataset.parts)):
        ids = dataset.read_part(part, ["rollout_id"])["rollout_id"].to_pylist()
        if rollout_id in ids:
            return part
        others |= dict.fromkeys(other for other in ids if len(others) < 1000 or other.startswith(f"{group}/"))
    near = [other for other in others if group and other.startswith(f"{group}/")]
    hint = advice(rollout_id, near or others, listed=bool(near)) if others else "it holds no rollouts"
    raise RolloutNotFoundError(f"rollout {rollout_id!r} is not in {dataset.url}; {hint}")


def _group(dataset: CompleteDataset, part: int, rollout_id: str, config: ShapingConfig) -> pa.Table:
    """The rows of the rollout's group, with what shaping reads and made."""
    with dataset.open_part(part) as file:
        present = file.schema_arrow.names
        extra = [name for name in present if name.startswith(("status_", "detail_"))]
        columns = [
            "group_id",
            "rollout_id",
            "token_ids",
            "loss_mask",
            *(name for name in (*_RAW, "verify_status") if name in present),
            *_MADE,
            *extra,
        ]
        if config.streams is not None:
            planned = plan(file.schema_arrow.empty_table(), config)
            columns += [*planned.types, *planned.keys.values()]
        table = file.read(columns=list(dict.fromkeys(columns)))
    row = table["rollout_id"].to_pylist().index(rollout_id)
    rows = np.flatnonzero(table["group_id"].to_numpy() == table["group_id"][row].as_py())
    return table.slice(int(rows[0]), int(rows[-1]) + 1 - int(rows[0]))


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _short(ends: Sequence[int], limit: int = 12) -> str:
    return str(list(ends)) if len(ends) <= limit else f"[{', '.join(map(str, ends[:limit]))}, ... {len(ends)} in all]"
