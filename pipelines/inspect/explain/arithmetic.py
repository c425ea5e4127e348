"""The arithmetic of one rollout's advantages, spelled out in plain Python from the method's description.

It shares no code with `pass_ops`, only its options: what it finds is compared with what is stored. Sums are exact
(`math.fsum`); a number carries the rounding that an honest computation in another order may differ by.

Indices: rollout i of a group, token t, step or chunk j.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from pass_ops import ShapingConfig
from pipelines.inspect.explain.pools import Columns, Number, Pool, Row
from pipelines.inspect.explain.reads import Credit, Element, Reads


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One chunk. Tokens start..end (exclusive); the credit is read at `token`, its last one that counts.

    why: what starts it (moved: the group's mean N(score), from the chunk before). score and standardized: the process
    score there (None where the estimator reads none). credit a_j = process + constant; rest = a_j + ... + a_K;
    advantage = rest / remaining^k. For `grpo_process` and `prime`, process and constant are what lies in this chunk;
    credit and advantage both are `rest`, for `prime` standardized once more.
    """

    start: int
    end: int
    token: int
    why: str
    score: float | None
    standardized: float | None
    process: Number
    constant: Number
    credit: Number
    rest: Number
    remaining: int
    advantage: Number


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What shaping makes of one rollout.

    reasons: why it is not trainable. group: G, the rollouts left in the group. outcome, format: the rollout's
    standardized rewards; gated: its format failed, so that its every credit is W * format. path_score: None where there
    is none.
    """

    trainable: bool
    reasons: tuple[str, ...]
    group: int
    pools: tuple[Pool, ...]
    outcome: float | None
    format: float | None
    gated: bool
    chunks: tuple[Chunk, ...]
    path_score: Number | None


class GroupArithmetic:
    """The arithmetic of any of a group's rows; what they share (pools, trace) is worked out once."""

    def __init__(self, rows: Sequence[Row], *, config: ShapingConfig, columns: Columns) -> None:
        self._rows, self._reads = rows, Reads(config, columns)
        self._used = used = [row for row in rows if not self._reads.missing(row)]
        self._pools = pools = self._reads.pools(used)
        self._trace = cache(lambda t: _trace(used, pools["process"], t))

    @cached_property
    def _with_returns(self) -> dict[str, Pool]:
        returns = _returns(self._used, self._reads, self._pools)
        return {**self._pools, "return": Pool.of("return", returns, "masked_norm", self._reads.config)}

    def row(self, index: int, stored_ends: Collection[int] = ()) -> Arithmetic:
        """The arithmetic of one row.

        stored_ends: where the stored chunks end; followed only where rounding alone decides about a boundary.
        """
        reads, pools, row = self._reads, self._pools, self._rows[index]
        reasons = reads.missing(row)
        if not any(row.mask):
            reasons += ("no token counts: " + ("the loss mask is False everywhere" if row.mask else "it is empty"),)
        outcome, form = (
            pools[name].standardize(x).value if name in pools and x is not None else None
            for name, x in (("outcome", row.outcome), ("format", reads.format(row)))
        )
        chunks: tuple[Chunk, ...] = ()
        if not reasons:
            if reads.method.whitens:
                chunks = _return_to_go(row, reads, pools, stored_ends)
                pools = self._with_returns
                chunks = _whitened(chunks, pools["return"])
            elif reads.method.returns:
                chunks = _return_to_go(row, reads, pools, stored_ends)
            else:
                starts = _starts(row, reads, self._trace, stored_ends)
                k = reads.config.k if reads.method.divides else 0.0
                chunks = _divide_length(row, starts, reads.credit(row, pools), k)
        has_path = bool(chunks) and reads.method.divides
        return Arithmetic(
            trainable=not reasons,
            reasons=reasons,
            group=len(self._used),
            pools=tuple(pools.values()),
            outcome=outcome,
            format=form,
            gated=reads.gated and row.ok is False,
            chunks=chunks,
            path_score=chunks[0].advantage if has_path else None,
        )


def _starts(row: Row, reads: Reads, trace: Callable[[int], Number], stored: Collection[int]) -> list[tuple[int, str]]:
    """Chunk-by-Value: the token each chunk starts at, and why (docs/spec/method.md section 3). trace: t -> u_t."""
    config = reads.config
    if reads.method.chunks == "rollout":
        return [(0, "start")]
    counting = [t for t, counts in enumerate(row.mask) if counts]
    if not config.chunk:
        return [(0, f"token {counting[0]}"), *((t, f"token {t}") for t in counting[1:])]
    if config.signal == "prm":
        first, *others = reads.elements(row)
        return [(0, first.name), *((element.first, element.name) for element in others)]
    found = [(0, "start")]
    value = trace(counting[0])
    for t in counting[1:]:
        here = trace(t)
        moved = abs(here.value - value.value)
        undecided = abs(moved - config.eta) <= here.rounding + value.rounding
        if t in stored if undecided else moved > config.eta:
            found.append((t, f"moved {moved:.3g}"))
            value = here
    return found


def _trace(used: Sequence[Row], pool: Pool, t: int) -> Number:
    """u_t: the mean over the group of s~(i, t); a rollout without a counting token there adds 0."""
    here = [
        pool.standardize(row.scores[t]) for row in used if row.scores is not None and t < len(row.mask) and row.mask[t]
    ]
    group = len(used)
    return Number(math.fsum(x.value for x in here) / group, sum(x.rounding for x in here) / group)


def _divide_length(
    row: Row, starts: Sequence[tuple[int, str]], credit: Callable[[float | None], Credit], k: float
) -> tuple[Chunk, ...]:
    """Divide-Length (docs/spec/method.md section 4) over the chunks that start at `starts`."""
    length, count = len(row.mask), len(starts)
    ends = [*(start for start, _ in starts[1:]), length]
    chunks: list[Chunk] = []
    rest = Number(0.0)
    for j in range(count - 1, -1, -1):
        (start, why), end = starts[j], ends[j]
        token = max(t for t in range(start, end) if row.mask[t])
        found = credit(_score_at(row, token))
        own = found.process + found.constant
        rest = own + rest
        remaining = count - j
        chunks.append(
            Chunk(
                start=start,
                end=end,
                token=token,
                why=why,
                score=found.score,
                standardized=found.standardized,
                process=found.process,
                constant=found.constant,
                credit=own,
                rest=rest,
                remaining=remaining,
                advantage=rest.times(remaining**-k),
            )
        )
    return tuple(reversed(chunks))


def _returns(used: Sequence[Row], reads: Reads, pools: dict[str, Pool]) -> list[array[float]]:
    """PRIME's returns, one for each token that counts, of each rollout."""
    rows = []
    for row in used:
        chunks = _return_to_go(row, reads, pools, ()) if any(row.mask) else ()
        returns = (chunk.rest.value for chunk in chunks for t in range(chunk.start, chunk.end) if row.mask[t])
        rows.append(array("d", returns))
    return rows


def _whitened(chunks: Sequence[Chunk], pool: Pool) -> tuple[Chunk, ...]:
    """The chunks with their returns standardized by `pool`."""
    found = []
    for chunk in chunks:
        white = pool.standardize(chunk.rest.value)
        slack = chunk.rest.rounding / (pool.std + pool.eps) if pool.std else 0.0
        white = Number(white.value, white.rounding + slack)
        found.append(replace(chunk, credit=white, advantage=white))
    return tuple(found)


def _return_to_go(row: Row, reads: Reads, pools: dict[str, Pool], stored: Collection[int]) -> tuple[Chunk, ...]:
    """The sum of what lies at or after a token; neighbours of one sum are one chunk."""
    credit = reads.credit(row, pools)
    # Without a process signal all that counts lies at the end: one element without a score.
    elements = reads.elements(row) or [Element(0, max(t for t, counts in enumerate(row.mask) if counts), 0.0, "start")]
    shares = [credit(element.score) for element in elements]
    tail = credit(None).constant
    chunks: list[Chunk] = []
    rest, process, end = tail, Number(0.0), len(row.mask)
    last = elements[-1].last
    for j in range(len(elements) - 1, -1, -1):
        rest = shares[j].process + rest
        process = shares[j].process + process
        if j > 0 and not _differs(shares[j - 1].process, rest, tie=elements[j].first in stored):
            continue
        first = elements[j].first if j > 0 else 0
        chunks.append(
            Chunk(
                start=first,
                end=end,
                token=last,
                why="start" if j == 0 else elements[j].name,
                score=shares[j].score,
                standardized=shares[j].standardized,
                process=process,
                constant=tail if not chunks else Number(0.0),
                credit=rest,
                rest=rest,
                remaining=1,
                advantage=rest,
            )
        )
        process, end = Number(0.0), first
        last = elements[j - 1].last if j > 0 else 0
    return tuple(reversed(chunks))


def _differs(share: Number, rest: Number, *, tie: bool) -> bool:
    """Whether adding `share` to `rest` gives another advantage; `tie` decides where rounding alone would."""
    if abs(share.value) <= share.rounding + 1e-15 * abs(rest.value):
        return tie
    return True


def _score_at(row: Row, token: int) -> float | None:
    if row.scores is None:
        return None
    if row.ends is None:
        return row.scores[token]
    return row.scores[bisect_right(row.ends, token)]
