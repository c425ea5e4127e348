"""What a rule of `passrl lint` goes by, and what it says: thresholds and findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from pipelines.options import ConfigError, options
from pipelines.options.types import AtLeastOne, Share

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@options(ConfigError)
class LintOptions:
    """Thresholds of `passrl lint`. Shares are between 0 and 1; beyond an *_error threshold a finding is an error."""

    constant_groups: Share = 0.5
    """Share of groups whose outcomes are all equal: their outcome teaches nothing."""
    partial_groups: Share = 0.1
    """Share of groups with fewer rollouts than were sampled: their pools are noisier."""
    singletons: Share = 0.01
    """Share of groups with a single rollout, which has no pool at all."""
    verifier: Share = 0.01
    """Share of errors and timeouts of a verifier; they are not random, the hard cases are lost first."""
    verifier_error: Share = 0.1
    """The same, as an error."""
    unparseable: Share = 0.2
    """Share of answers that could not be read: the answer format decides, not the reasoning."""
    missing: Share = 0.02
    """Share of rollouts without a value of another signal."""
    missing_error: Share = 0.2
    """The same, as an error."""
    truncation: Share = 0.1
    """Share of completions cut off by length: they have no answer, so that the length limit decides."""
    truncation_error: Share = 0.5
    """The same, as an error."""
    untrainable: Share = 0.1
    """Share of rollouts that are not trainable: they were paid for and move nothing."""
    untrainable_error: Share = 0.5
    """The same, as an error."""
    zero_advantage: Share = 0.5
    """Share of trainable rollouts whose every advantage is 0."""
    dominance: Share = 0.9
    """One stream's share of the fused advantage's variance, above which the others hardly count."""
    gate: Share = 0.5
    """Share of the squared advantages of the rollouts that fail the format, where it is also twice their own share."""
    correlation: Annotated[float, Ge(-1), Le(1)] = 0.05
    """Correlation of mean process score and outcome within groups, below which the process signal does not point where
    the outcome does."""
    length_wrong: Share = 0.3
    """Correlation, within groups, of a wrong rollout's path score with its length: length must not pay."""
    length_right: Share = 0.6
    """The same for right rollouts, whose path score should not depend mostly on length."""
    padding_score: float | None = None
    """Score of an added step that must not raise a rollout's total credit (default: the mean of the process scores that
    are below their mean: what poor steps get). Example: 0.5."""
    chunks: Share = 0.9
    """Chunks per token of a signal per token; near 1 there are no chunks."""
    zero_logprobs: Share = 0.999
    """Share of log-probabilities that are exactly 0."""
    rollouts: AtLeastOne = 50
    """Fewest rollouts for a correlation to be looked at."""


@dataclass(frozen=True, kw_only=True)
class LintFinding:
    """Something found: which rule, how bad, the fact with its numbers, what to do, and first examples (ids)."""

    severity: Severity
    code: str
    message: str
    advice: str
    examples: tuple[str, ...] = ()


def above(
    share: float,
    code: str,
    limits: tuple[float, float | None],
    message: str,
    advice: str,
    *,
    examples: list[str] | None = None,
    reached: bool = False,
) -> Iterator[LintFinding]:
    """A warning above the first limit, an error above the second (with `reached`, at it)."""
    warn, error = limits
    if share > warn:
        severe = error is not None and (share > error or (reached and share == error))
        yield finding("error" if severe else "warning", code, message, advice, examples)


def finding(severity: Severity, code: str, message: str, advice: str, examples: Any = None) -> LintFinding:
    """A finding, with its examples or none."""
    return LintFinding(severity=severity, code=code, message=message, advice=advice, examples=tuple(examples or ()))


def percent(share: float) -> str:
    """A share as findings write it."""
    return f"{100 * share:.1f} %"
