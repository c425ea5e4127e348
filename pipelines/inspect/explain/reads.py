"""Which stored values an estimator reads, how it pools them, and what a process score is worth: for `arithmetic`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pass_ops import ShapingConfig
from pass_ops.options.methods import METHODS
from pipelines.inspect.explain.pools import Columns, Number, Pool, Row


@dataclass(frozen=True)
class Element:
    """What carries one process score: a step with a token that counts, or such a token. Tokens are those that count."""

    first: int
    last: int
    score: float
    name: str


@dataclass(frozen=True)
class Credit:
    score: float | None
    standardized: float | None
    process: Number
    constant: Number


class Reads:
    """Which streams the options read, and what they make of a row (docs/spec/method.md 0a, 1 and 2)."""

    def __init__(self, config: ShapingConfig, columns: Columns) -> None:
        self.config = config
        self.columns = columns
        self.method = METHODS[config.estimator]
        self.gated = self.method.gated and columns.format_ok
        self.formatted = self.gated or config.weights.format != 0.0
        self.process = config.reads_process

    def missing(self, row: Row) -> tuple[str, ...]:
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

    def format(self, row: Row) -> float | None:
        """The format reward, or the indicator in its place."""
        if not self.formatted:
            return None
        if self.columns.format_reward:
            return row.format
        return None if row.ok is None else float(row.ok)

    def elements(self, row: Row) -> list[Element]:
        """A row's process scores, each with the tokens that count among those it is about."""
        if not self.process:
            return []
        assert row.scores is not None
        if self.config.signal == "kl":
            return [Element(t, t, row.scores[t], f"token {t}") for t, counts in enumerate(row.mask) if counts]
        assert row.ends is not None
        found = []
        start = 0
        for j, (score, end) in enumerate(zip(row.scores, row.ends, strict=True), start=1):
            tokens = [t for t in range(start, end) if row.mask[t]]
            if tokens:
                found.append(Element(tokens[0], tokens[-1], score, f"step {j}"))
            start = end
        return found

    def pools(self, used: Sequence[Row]) -> dict[str, Pool]:
        """The group's pooled sets, by name."""
        config, weights = self.config, self.config.weights
        operators = config.standardizers
        outcomes = [[row.outcome] for row in used if row.outcome is not None] if weights.outcome != 0.0 else []
        formats = [[x] for row in used if (x := self.format(row)) is not None]
        steps = [array("d", [e.score for e in self.elements(row)]) for row in used]
        made: dict[str, Pool] = {}
        if self.method.pools == "each":
            if self.process:
                made["process"] = Pool.of("process", steps, operators.process, config)
            if weights.outcome != 0.0:
                made["outcome"] = Pool.of("outcome", outcomes, operators.outcome, config)
            if self.formatted:
                made["format"] = Pool.of("format", formats, operators.format, config)
        elif self.method.pools == "sum" and self.process:
            summed = [
                array("d", [weights.process * e.score + self.raw(row) for e in self.elements(row)]) for row in used
            ]
            made["sum"] = Pool.of("sum", summed, operators.process, config)
            if config.signal == "kl" and config.chunk:  # Chunk-by-Value's trace is that of PASS
                made["process"] = Pool.of("process", steps, operators.process, config)
        elif self.method.pools == "all":
            made["all"] = Pool.of("all", [self.joined(row) for row in used], operators.process, config)
        else:
            made["sum"] = Pool.of("sum", [[self.raw(row)] for row in used], operators.outcome, config)
        return made

    def joined(self, row: Row) -> array[float]:
        """Every value of a row that counts, in one array."""
        weights = self.config.weights
        found = [e.score for e in self.elements(row)] if weights.process != 0.0 else []
        found += [row.outcome] if weights.outcome != 0.0 and row.outcome is not None else []
        counted = self.format(row)
        return array("d", found + ([counted] if weights.format != 0.0 and counted is not None else []))

    def raw(self, row: Row) -> float:
        """w_out * r_out + w_fmt * r_fmt, before any standardization."""
        weights = self.config.weights
        outcome = weights.outcome * (row.outcome or 0.0) if weights.outcome != 0.0 else 0.0
        return outcome + (weights.format * (self.format(row) or 0.0) if weights.format != 0.0 else 0.0)

    def credit(self, row: Row, pools: dict[str, Pool]) -> Callable[[float | None], Credit]:
        """The function from a process score to the credit of the chunk that it ends (for grpo_process: to its share;
        None asks for what lies at the rollout's last token).
        """
        weights = self.config.weights
        one_sum = self.method.pools == "sum"
        if one_sum and not self.process:
            return lambda _: _summed(pools["sum"], 0.0, self.raw(row), None)
        if one_sum:
            return partial(_summed, pools["sum"], weights.process, self.raw(row))
        whole = pools.get("all")
        outcome = (whole or pools["outcome"]).standardize(row.outcome or 0.0) if weights.outcome != 0.0 else Number(0.0)
        form, counted = Number(0.0), self.format(row)
        if counted is not None and not (whole and weights.format == 0.0):
            form = (whole or pools["format"]).standardize(counted)
        rewards = outcome.times(weights.outcome) + form.times(weights.format)
        if self.gated and row.ok is False:
            return lambda score: Credit(
                score,
                pools["process"].standardize(score or 0.0).value,
                Number(0.0),
                form.times(weights.process + weights.outcome + weights.format),
            )
        if not self.process:
            return lambda _: Credit(None, None, Number(0.0), rewards)
        tail_only = self.method.returns
        return partial(_fused, whole or pools["process"], weights.process, rewards, tail_only=tail_only)


def _fused(pool: Pool, weight: float, rewards: Number, score: float | None, *, tail_only: bool) -> Credit:
    """A = w_prc * s~ + what the rewards add; under `tail_only` the rewards lie at the rollout's end alone."""
    if score is None:
        return Credit(None, None, Number(0.0), rewards)
    standardized = pool.standardize(score)
    return Credit(score, standardized.value, standardized.times(weight), Number(0.0) if tail_only else rewards)


def _summed(pool: Pool, weight: float, rewards: float, score: float | None) -> Credit:
    """A = N(w_prc * s + the raw rewards)."""
    standardized = pool.standardize(rewards if score is None else weight * score + rewards)
    return Credit(score, None if score is None else standardized.value, standardized, Number(0.0))
