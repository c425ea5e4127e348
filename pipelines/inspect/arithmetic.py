"""The arithmetic of one rollout's advantages, spelled out in plain Python from the method's description.

It shares no code with `pass_ops`, only its options: what it finds is compared with what is stored. Sums are exact
(`math.fsum`); a number carries the rounding that an honest computation in another order may differ by.

Indices: rollout i of a group, token t, step or chunk j.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from pass_ops import ShapingConfig
from pipelines.inspect.pools import Columns, Number, Pool, StoredRow


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One chunk. Tokens start..end (exclusive); the credit is read at `token`, its last one that counts.

    why: what starts it (moved: the group's mean N(score), from the chunk before). score and standardized: the process
    score there (None where the estimator reads none). credit a_j = process + constant; rest = a_j + ... + a_K;
    advantage = rest / remaining^k. For `grpo_process`, process and constant are what lies in this chunk, and credit
    and advantage both are `rest`.
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


@dataclass(frozen=True)
class _Element:
    """What carries one process score: a step with a token that counts, or such a token. Tokens are those that count."""

    first: int
    last: int
    score: float
    name: str


@dataclass(frozen=True)
class _Credit:
    score: float | None
    standardized: float | None
    process: Number
    constant: Number


def work_out(
    rows: Sequence[StoredRow],
    index: int,
    *,
    config: ShapingConfig,
    columns: Columns,
    stored_ends: Collection[int] = (),
) -> Arithmetic:
    """The arithmetic of rows[index] within its group `rows`.

    stored_ends: where the stored chunks end; followed only where rounding alone decides about a boundary.
    """
    reads = _Reads(config, columns)
    row = rows[index]
    reasons = reads.missing(row)
    if not any(row.mask):
        reasons += ("no token counts: " + ("the loss mask is False everywhere" if row.mask else "it is empty"),)
    used = [other for other in rows if not reads.missing(other)]
    pools = reads.pools(used)
    outcome, form = (
        pools[name].standardize(x).value if name in pools and x is not None else None
        for name, x in (("outcome", row.outcome), ("format", reads.format(row)))
    )
    chunks: tuple[Chunk, ...] = ()
    if not reasons:
        credit = reads.credit(row, pools)
        if config.estimator == "grpo_process":
            chunks = _return_to_go(row, reads.elements(row), credit, stored_ends)
        else:
            starts = _starts(row, used, reads, pools, stored_ends)
            chunks = _divide_length(row, starts, credit, 0.0 if config.estimator == "grpo_outcome" else config.k)
    has_path = bool(chunks) and config.estimator in ("pass", "reward_shaping")
    return Arithmetic(
        trainable=not reasons,
        reasons=reasons,
        group=len(used),
        pools=tuple(pools.values()),
        outcome=outcome,
        format=form,
        gated=reads.gated and row.ok is False,
        chunks=chunks,
        path_score=chunks[0].advantage if has_path else None,
    )


class _Reads:
    """Which streams the options read, and what they make of a row (pass.md 0a, 1 and 2)."""

    def __init__(self, config: ShapingConfig, columns: Columns) -> None:
        self.config = config
        self.columns = columns
        self.gated = config.estimator == "pass" and columns.format_ok
        self.formatted = self.gated or config.weights.format != 0.0
        self.process = config.estimator != "grpo_outcome"

    def missing(self, row: StoredRow) -> tuple[str, ...]:
        """The streams of a row that count and are null."""
        weights = self.config.weights
        lacks_ends = self.config.signal == "prm" and row.ends is None
        checks = (
            (self.process and (row.scores is None or lacks_ends), "the process signal"),
            (weights.outcome != 0.0 and row.outcome is None, "outcome_reward"),
            (self.formatted and self.columns.format_reward and row.format is None, "format_reward"),
            ((self.gated or (self.formatted and not self.columns.format_reward)) and row.ok is None, "format_ok"),
        )
        return tuple(f"{what} could not be computed (null)" for absent, what in checks if absent)

    def format(self, row: StoredRow) -> float | None:
        """The format reward, or the indicator in its place."""
        if not self.formatted:
            return None
        if self.columns.format_reward:
            return row.format
        return None if row.ok is None else float(row.ok)

    def elements(self, row: StoredRow) -> list[_Element]:
        """A row's process scores, each with the tokens that count among those it is about."""
        assert row.scores is not None
        if self.config.signal == "kl":
            return [_Element(t, t, row.scores[t], f"token {t}") for t, counts in enumerate(row.mask) if counts]
        assert row.ends is not None
        found = []
        start = 0
        for j, (score, end) in enumerate(zip(row.scores, row.ends, strict=True), start=1):
            tokens = [t for t in range(start, end) if row.mask[t]]
            if tokens:
                found.append(_Element(tokens[0], tokens[-1], score, f"step {j}"))
            start = end
        return found

    def pools(self, used: Sequence[StoredRow]) -> dict[str, Pool]:
        """The group's pooled sets, by name."""
        config, weights = self.config, self.config.weights
        operators = config.standardizers
        outcomes = [row.outcome for row in used if row.outcome is not None] if weights.outcome != 0.0 else []
        formats = [x for row in used if (x := self.format(row)) is not None]
        steps = [e.score for row in used for e in self.elements(row)] if self.process else []
        if config.estimator == "pass":
            made = {"process": Pool.of("process", steps, operators.process, config)}
            if weights.outcome != 0.0:
                made["outcome"] = Pool.of("outcome", outcomes, operators.outcome, config)
            if self.formatted:
                made["format"] = Pool.of("format", formats, operators.format, config)
            return made
        if config.estimator == "reward_shaping":
            summed = [weights.process * e.score + self.raw(row) for row in used for e in self.elements(row)]
            made = {"sum": Pool.of("sum", summed, operators.process, config)}
            if config.signal == "kl" and config.chunk:  # Chunk-by-Value's trace is that of PASS
                made["process"] = Pool.of("process", steps, operators.process, config)
            return made
        if config.estimator == "grpo_process":
            joined = [*(steps if weights.process != 0.0 else []), *outcomes]
            joined += formats if weights.format != 0.0 else []
            return {"all": Pool.of("all", joined, operators.process, config)}
        return {"sum": Pool.of("sum", [self.raw(row) for row in used], operators.outcome, config)}

    def raw(self, row: StoredRow) -> float:
        """w_out * r_out + w_fmt * r_fmt, before any standardization."""
        weights = self.config.weights
        outcome = weights.outcome * (row.outcome or 0.0) if weights.outcome != 0.0 else 0.0
        return outcome + (weights.format * (self.format(row) or 0.0) if weights.format != 0.0 else 0.0)

    def credit(self, row: StoredRow, pools: dict[str, Pool]) -> Callable[[float | None], _Credit]:
        """The function from a process score to the credit of the chunk that it ends (for grpo_process: to its share;
        None asks for what lies at the rollout's last token).
        """
        config, weights = self.config, self.config.weights
        if config.estimator == "grpo_outcome":
            return lambda _: _summed(pools["sum"], 0.0, self.raw(row), None)
        if config.estimator == "reward_shaping":
            return partial(_summed, pools["sum"], weights.process, self.raw(row))
        whole = pools.get("all")
        outcome = (whole or pools["outcome"]).standardize(row.outcome or 0.0) if weights.outcome != 0.0 else Number(0.0)
        form, counted = Number(0.0), self.format(row)
        if counted is not None and not (whole and weights.format == 0.0):
            form = (whole or pools["format"]).standardize(counted)
        rewards = outcome.times(weights.outcome) + form.times(weights.format)
        if self.gated and row.ok is False:
            return lambda score: _Credit(
                score,
                pools["process"].standardize(score or 0.0).value,
                Number(0.0),
                form.times(weights.process + weights.outcome + weights.format),
            )
        return partial(_fused, whole or pools["process"], weights.process, rewards, tail_only=whole is not None)


def _fused(pool: Pool, weight: float, rewards: Number, score: float | None, *, tail_only: bool) -> _Credit:
    """A = w_prc * s~ + what the rewards add; under `tail_only` the rewards lie at the rollout's end alone."""
    if score is None:
        return _Credit(None, None, Number(0.0), rewards)
    standardized = pool.standardize(score)
    return _Credit(score, standardized.value, standardized.times(weight), Number(0.0) if tail_only else rewards)


def _summed(pool: Pool, weight: float, rewards: float, score: float | None) -> _Credit:
    """A = N(w_prc * s + the raw rewards)."""
    standardized = pool.standardize(rewards if score is None else weight * score + rewards)
    return _Credit(score, None if score is None else standardized.value, standardized, Number(0.0))


def _starts(
    row: StoredRow, used: Sequence[StoredRow], reads: _Reads, pools: dict[str, Pool], stored: Collection[int]
) -> list[tuple[int, str]]:
    """Chunk-by-Value: the token each chunk starts at, and why (pass.md section 3)."""
    config = reads.config
    if config.estimator == "grpo_outcome":
        return [(0, "start")]
    counting = [t for t, counts in enumerate(row.mask) if counts]
    if not config.chunk:
        return [(0, f"token {counting[0]}"), *((t, f"token {t}") for t in counting[1:])]
    if config.signal == "prm":
        first, *others = reads.elements(row)
        return [(0, first.name), *((element.first, element.name) for element in others)]
    trace = partial(_trace, used, pools["process"])
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


def _trace(used: Sequence[StoredRow], pool: Pool, t: int) -> Number:
    """u_t: the mean over the group of s~(i, t); a rollout without a counting token there adds 0."""
    here = [
        pool.standardize(row.scores[t]) for row in used if row.scores is not None and t < len(row.mask) and row.mask[t]
    ]
    group = len(used)
    return Number(math.fsum(x.value for x in here) / group, sum(x.rounding for x in here) / group)


def _divide_length(
    row: StoredRow, starts: Sequence[tuple[int, str]], credit: Callable[[float | None], _Credit], k: float
) -> tuple[Chunk, ...]:
    """Divide-Length (pass.md section 4) over the chunks that start at `starts`."""
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


def _return_to_go(
    row: StoredRow,
    elements: Sequence[_Element],
    credit: Callable[[float | None], _Credit],
    stored: Collection[int],
) -> tuple[Chunk, ...]:
    """GRPO(process): the sum of what lies at or after a token; neighbours of one advantage are one chunk."""
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


def _score_at(row: StoredRow, token: int) -> float | None:
    if row.scores is None:
        return None
    if row.ends is None:
        return row.scores[token]
    return next(score for score, end in zip(row.scores, row.ends, strict=True) if token < end)
