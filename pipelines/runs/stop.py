"""Early stopping: rounds end when a metric has not improved for a while."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from pass_ops.errors import PassError
from pipelines.options import ConfigError, options
from pipelines.options.types import AtLeastOne
from trainer.options import NotNegative


class StopError(PassError, ValueError):
    """The metric that decides about stopping is not measured, or is no number."""


def _metric(name: str) -> str:
    kind, _, rest = name.partition(".")
    if kind not in ("eval", "train") or not rest or (kind == "eval" and not rest.rpartition(".")[0]):
        raise ValueError(f"{name!r} is no metric: it is eval.BENCHMARK.pass@K, or train.NAME of a training's metrics")
    return name


@options(ConfigError)
class StopOptions:
    """When `passrl rounds` ends before run.rounds; the decision is made after each round from what is stored."""

    metric: Annotated[str, AfterValidator(_metric)]
    """eval.BENCHMARK.pass@K, counted on eval.between prompts where that is set; or train.NAME, a mean over the round's
    updates. Example: "eval.math.pass@1"."""
    patience: AtLeastOne = 3
    """Rounds in a row without an improvement after which no further round is made."""
    min_delta: NotNegative = 0.0
    """By how much a round must beat the best one to count as an improvement."""
    mode: Literal["max", "min"] = "max"
    """Whether a larger value is better, or a smaller one."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The decision that a round is the last one. value: of that round; best: of the round best_round."""

    round: int
    metric: str
    value: float
    best_round: int
    best: float

    def __str__(self) -> str:
        return (
            f"stopped after round {self.round}: {self.metric} is {self.value:.4g}, and {self.best:.4g} of round "
            f"{self.best_round} has not been beaten since"
        )

    def as_json(self) -> dict[str, Any]:
        """What the lineage says of it."""
        return asdict(self)


def stopped(values: Sequence[float], options: StopOptions) -> Stopped | None:
    """The first round of the values, one a round, after which to stop; None where they go on.

    A value that is not a number improves nothing.

    >>> stopped([0.1, 0.3, 0.2, 0.3], StopOptions(metric="eval.math.pass@1", patience=2)).round
    3
    """
    sign = 1.0 if options.mode == "max" else -1.0
    best, best_round = -math.inf, 0
    for index, value in enumerate(values):
        if sign * value > best + (options.min_delta if best > -math.inf else 0.0):
            best, best_round = sign * value, index
        elif index - best_round >= options.patience:
            return Stopped(round=index, metric=options.metric, value=value, best_round=best_round, best=sign * best)
    return None


def metric_value(metrics: Mapping[str, Mapping[str, Any]], name: str, *, where: str) -> float:
    """A metric of {"train": {name: value}, "eval": {benchmark: {pass@k: value}}}.

    Raises StopError where it is not there, or is NaN or infinite, which no other value can be compared with.
    """
    kind, _, rest = name.partition(".")
    found: Any = metrics.get(kind, {})
    if kind == "eval":
        benchmark, _, rest = rest.rpartition(".")
        found = found.get(benchmark, {})
    if not isinstance(found.get(rest), int | float):
        raise StopError(f"stop.metric {name} is not measured in {where}; it has: {', '.join(sorted(found)) or 'none'}")
    value = float(found[rest])
    if not math.isfinite(value):
        raise StopError(
            f"stop.metric {name} is {value} in {where}, so it cannot be said whether the rounds improve; look at what "
            "made it so (passrl inspect RUN), or name another metric"
        )
    return value
