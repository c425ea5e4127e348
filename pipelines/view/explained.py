"""The arithmetic of `passrl explain` for every chunk of a group, as the page shows it over a chunk.

Axes: chunks of a group's rollouts, end to end (K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops import ShapingConfig
from pass_ops.options.config import ESTIMATORS
from pass_ops.options.methods import METHODS
from pass_ops.reading.stream_sources import Plan, plan
from pipelines.inspect.explain.arithmetic import Arithmetic, Chunk
from pipelines.inspect.explain.explanation import CheckedGroup
from pipelines.inspect.explain.stream_result import Share, StreamArithmetic
from pipelines.inspect.explain.streams_text import pool_formula as stream_formula
from pipelines.inspect.explain.text import pool_formula
from pipelines.view.payload import Array
from pipelines.view.rows import Group, Shaped

#: tokens of a group above which it is not explained: its arithmetic holds Python numbers for each
MOST = 250_000
_PASS: Mapping[str, Callable[[Chunk], float | None]] = {
    "score": lambda chunk: chunk.score,
    "standardized": lambda chunk: chunk.standardized,
    "process": lambda chunk: chunk.process.value,
    "constant": lambda chunk: chunk.constant.value,
    "rest": lambda chunk: chunk.rest.value,
}
_STREAM_SHARE: Mapping[str, Callable[[Share], float]] = {
    "raw": lambda share: share.raw,
    "transformed": lambda share: share.transformed.value,
    "standardized": lambda share: share.standardized.value,
    "y": lambda share: share.y.value,
    "share": lambda share: share.share.value,
}


@dataclass(frozen=True)
class Explained:
    """head: the payload's EXPLAIN. arrays: its numbers by name, one a chunk; NaN where there is none."""

    head: dict[str, Any]
    arrays: Mapping[str, NDArray[np.float32]]

    def payload(self, setting: int) -> Iterator[Array]:
        """The arrays under their names in the block."""
        for name, values in self.arrays.items():
            yield Array(f"explain/{setting}/{name}", f"chunk/{setting}", values)


def left_out(group: Group, config: ShapingConfig) -> str | None:
    """Why a group's chunks have no arithmetic here; None where they have."""
    if config.streams is None and config.estimator not in ESTIMATORS:
        return f"explain does not spell out the arithmetic of estimator {config.estimator!r}"
    if int(group.tokens_R.sum()) > MOST:
        return "groups of so many tokens are not explained in the file; `passrl explain` does it for one rollout"
    return None


def plan_of(shaped: Shaped) -> Plan | None:
    """What the streams of a setting read, the same for all of its groups; None where it has no streams."""
    config = shaped.setting.config
    return None if config.streams is None else plan(shaped.table, config)


def explain(shaped: Shaped, planned: Plan | None) -> Explained:
    """The arithmetic of every rollout under one setting. planned: `plan_of` one of its groups. Raises what
    `CheckedGroup` does.
    """
    config, found = shaped.setting.config, []
    checked = CheckedGroup(shaped.table, config, statistics=shaped.setting.statistics, planned=planned)
    for row in range(len(shaped.table)):
        arithmetic, _, disagreements, _ = checked.row(row)
        found.append((arithmetic, not disagreements))
    counts = shaped.chunks_R.tolist()
    return _by_streams(config, found, counts) if config.streams is not None else _by_estimator(config, found, counts)


def _by_estimator(config: ShapingConfig, found: Sequence[tuple[Any, bool]], counts: Sequence[int]) -> Explained:
    done: list[Arithmetic] = [arithmetic for arithmetic, _ in found]
    plain = config.plain()
    method = METHODS[config.estimator]
    pools = max((one.pools for one in done), key=len, default=())
    head = {
        "kind": "pass",
        "estimator": config.estimator,
        "formula": method.formula,
        "k": config.k,
        "weights": plain["weights"],
        "divides": method.divides,
        "pools": [
            {
                "name": pool.name, "operator": pool.operator, "size": pool.size, "mean": pool.mean, "std": pool.std,
                "largest": pool.largest, "formula": pool_formula(pool),
            }
            for pool in pools
        ],
        "rows": [
            {
                "reasons": list(one.reasons), "outcome": one.outcome, "format": one.format, "gated": one.gated,
                "agrees": agrees, "why": [chunk.why for chunk in one.chunks],
            }
            for one, agrees in found
        ],
    }  # fmt: skip
    chunks = [one.chunks for one in done]
    return Explained(head, {name: _numbers(chunks, counts, of) for name, of in _PASS.items()})


def _by_streams(config: ShapingConfig, found: Sequence[tuple[Any, bool]], counts: Sequence[int]) -> Explained:
    done: list[StreamArithmetic] = [arithmetic for arithmetic, _ in found]
    facts = max((one.streams for one in done), key=len, default=())
    listed = {(pool.stream, pool.pool): pool for one in done for pool in (*one.pools, *filter(None, [one.fused]))}
    head = {
        "kind": "streams",
        "k": config.k,
        "divides": config.divide,
        "eta": config.eta,
        "pools": [
            {
                "name": pool.stream or "the sum", "stream": pool.stream, "pool": pool.pool, "operator": pool.operator,
                "size": pool.size, "mean": pool.mean, "std": pool.std, "largest": pool.largest,
                "formula": stream_formula(pool),
            }
            for pool in listed.values()
            if pool.operator != "none"
        ],
        "streams": [
            {name: getattr(one, name) for name in _STREAM_FACTS} for one in facts
        ],
        "rows": [
            {
                "reasons": list(one.reasons), "right": one.right, "agrees": agrees,
                "why": [chunk.why for chunk in one.chunks],
                "streams": [{name: getattr(stream, name) for name in _STREAM_ROW} for stream in one.streams],
            }
            for one, agrees in found
        ],
    }  # fmt: skip
    chunks = [one.chunks for one in done]
    arrays = {
        "fused": _numbers(chunks, counts, lambda chunk: chunk.fused.value),
        "rest": _numbers(chunks, counts, lambda chunk: chunk.rest.value),
    }
    # A chunk has a share of every stream that is read, in the order of the facts; a rollout without facts has no chunk.
    for number in range(len(facts)):
        shares = [[chunk.shares[number] for chunk in of_row] for of_row in chunks]
        for name, of in _STREAM_SHARE.items():
            arrays[f"stream/{number}/{name}"] = _numbers(shares, counts, of)
    return Explained(head, arrays)


_STREAM_FACTS = ("name", "column", "level", "transform", "operator", "pool", "after", "gate")
_STREAM_ROW = ("open", "otherwise", "weight", "arrives")


def _numbers(
    chunks: Sequence[Sequence[Any]], counts: Sequence[int], of: Callable[[Any], float | None]
) -> NDArray[np.float32]:
    """One number a stored chunk, of what stands for it; NaN throughout a rollout whose arithmetic has other chunks."""
    found: list[float] = []
    for of_row, count in zip(chunks, counts, strict=True):
        values = [of(chunk) for chunk in of_row] if len(of_row) == count else [None] * count
        found += [np.nan if value is None else value for value in values]
    return np.array(found, np.float32)
