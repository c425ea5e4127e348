"""What each named estimator is: `explain`, `lint`, `sweep`, the input reader and the docs take it from here.

Stdlib only: the functions are named, and imported where rollouts are shaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """One estimator.

    Attributes:
        function: what computes it, as module:function: (rollouts, config) -> chunks; with `by_group`,
            (group, config) -> advantages (`pass_ops.group`).
        process: whether the process signal is read: always, never, or where its weight is not 0.
        pools: what is standardized over the group: each stream by itself; the raw streams' weighted sum; or all
            streams' values in one pool.
        operator: the operator it brings along; None where `standardize` chooses.
        gated: the format gate applies.
        chunks: what cuts them: the process signal (Chunk-by-Value), nothing (one a rollout), or changes of the
            advantage.
        divides: Divide-Length follows, with its path score.
        returns: a token's advantage is the sum of what lies at or after it.
        whitens: that sum is standardized once more, over the group's tokens.
        summary: the token advantage in a line, for the reference.
        formula: the arithmetic in a sentence, for `passrl explain`.
    """

    function: str
    by_group: bool = False
    process: Literal["always", "never", "weighted"]
    pools: Literal["each", "sum", "all"]
    operator: Literal["leave_one_out", "mean_only"] | None = None
    gated: bool = False
    chunks: Literal["process", "rollout", "advantage"]
    divides: bool = False
    returns: bool = False
    whitens: bool = False
    summary: str
    formula: str

    @property
    def operator_per_stream(self) -> bool:
        """Whether `standardize` may name one operator for each stream."""
        return self.pools == "each" or self.operator is not None

    @property
    def rewards_apart(self) -> bool:
        """Whether `standardize` is applied to outcome and format alone, without the process signal."""
        return self.operator is None and (self.pools == "each" or self.process == "never")


_ONE_SUM = "A = N(w_outcome * outcome + w_format * format) on every token"

METHODS: dict[str, Method] = {
    "pass": Method(
        function="pass_ops.estimators:pass_",
        process="always",
        pools="each",
        gated=True,
        chunks="process",
        divides=True,
        summary="AF, CV, DL; `chunk = false` is PASS without CV, `k = 0` PASS without DL",
        formula="A = w_process * N(score) + w_outcome * N(outcome) + w_format * N(format) at each chunk's last token "
        "that counts; then the sum to the end divided by (chunks left)^k",
    ),
    "reward_shaping": Method(
        function="pass_ops.estimators:reward_shaping",
        process="always",
        pools="sum",
        chunks="process",
        divides=True,
        summary="raw weighted sum per step, standardized once; then CV, DL",
        formula="A = N(w_process * score + w_outcome * outcome + w_format * format) at each chunk's last token that "
        "counts; then the sum to the end divided by (chunks left)^k",
    ),
    "grpo_process": Method(
        function="pass_ops.estimators:grpo_process",
        process="always",
        pools="all",
        chunks="advantage",
        returns=True,
        summary="process, outcome and format standardized together; return-to-go",
        formula="A = sum of w * N(x) over what lies at or after the token: scores at their steps, outcome and format "
        "at the rollout's end; N over all three together",
    ),
    "grpo_outcome": Method(
        function="pass_ops.estimators:grpo_outcome",
        process="never",
        pools="sum",
        chunks="rollout",
        summary="GRPO: the standardized sum of rewards on every token",
        formula=_ONE_SUM,
    ),
    "rloo": Method(
        function="pass_ops.estimators:grpo_outcome",
        process="never",
        pools="sum",
        operator="leave_one_out",
        chunks="rollout",
        summary="the same with only a baseline, the mean of the others",
        formula=_ONE_SUM,
    ),
    "dr_grpo": Method(
        function="pass_ops.estimators:grpo_outcome",
        process="never",
        pools="sum",
        operator="mean_only",
        chunks="rollout",
        summary="the same with only a baseline, the group's mean",
        formula=_ONE_SUM,
    ),
    "gdpo": Method(
        function="pass_ops.estimators:gdpo",
        process="never",
        pools="each",
        chunks="rollout",
        summary="GDPO: each reward standardized by itself, then summed, on every token",
        formula="A = w_outcome * N(outcome) + w_format * N(format) on every token",
    ),
    "prime": Method(
        function="pass_ops.methods.prime:prime",
        by_group=True,
        process="weighted",
        pools="each",
        operator="leave_one_out",
        chunks="advantage",
        returns=True,
        whitens=True,
        summary="PRIME: leave-one-out per source, sum, return-to-go, whitened over the group",
        formula="the sum of w * N(x) over what lies at or after the token, scores at their steps, outcome and format "
        "at the rollout's end; then A = N(that sum) over the tokens of the group that count (pool `return`)",
    ),
}
