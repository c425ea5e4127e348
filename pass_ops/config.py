"""Options of shaping: frozen, checked when they are made, compared and printed as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Literal, Self, get_args

from annotated_types import Ge, Le

from pass_ops.errors import OptionError
from pass_ops.importing import load_object, split_path
from pass_ops.methods.published import PUBLISHED, PublishedName
from pass_ops.nearest import advice

Estimator = Literal["pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime"]
Signal = Literal["prm", "kl"]
Operator = Literal["masked_norm", "abs_max", "mean_only", "leave_one_out", "none"]

#: estimators by name, but for those of `pass_ops.methods.published`; a function of your own is given by its import path
#: `module:function`, see `pass_ops.group`
ESTIMATORS = get_args(Estimator)
SIGNALS: tuple[Signal, ...] = get_args(Signal)
OPERATORS: tuple[Operator, ...] = get_args(Operator)

#: those that never read the process signal, and those that always do: their chunks come from it
WITHOUT_PROCESS = (
    *("grpo_outcome", "rloo", "dr_grpo", "gdpo"),
    *(name for name, method in PUBLISHED.items() if not method.reads_process),
)
WITH_PROCESS = ("pass", "reward_shaping", "grpo_process")
#: those that sum or pool the streams before standardizing
TOGETHER = ("reward_shaping", "grpo_process", "grpo_outcome")
#: those that bring their own operator
OWN_OPERATOR: dict[str, Operator] = {"rloo": "leave_one_out", "dr_grpo": "mean_only", "prime": "leave_one_out"}


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)  # only from __post_init__, to normalize a field of a frozen dataclass


def _choice(value: Any, choices: Sequence[str], *, option: str, others: str = "") -> None:
    if not (isinstance(value, str) and value in choices):
        hint = advice(str(value), choices, listed=True)
        raise OptionError(f"option {option}: unknown value {value!r}; {hint}{others}")


def _number(value: Any, *, option: str, low: float = -math.inf, high: float = math.inf) -> float:
    bounds = f" from {low:g} to {high:g}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
    expected = f"option {option}: expected a finite number{bounds}, got {value!r}"
    if isinstance(value, (bool, str)) or value is None:
        raise OptionError(f"{expected}; give a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{expected}; give a number") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise OptionError(f"{expected}; choose a value in that range")
    return number


class _Options:
    """Refuses an unknown option as it does an unknown value: with an OptionError that names the nearest known one."""

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in options:
            if name not in known:
                raise OptionError(f"{cls.__name__}: unknown option {name!r}; {advice(name, known)}")
        return super().__new__(cls)


@dataclass(frozen=True, kw_only=True)
class Weights(_Options):
    """Weights w_prc, w_out, w_fmt of the three reward streams (paper Eq. 4). A stream of weight 0 is left out.

    Raises:
        OptionError: a weight is not a finite number.
    """

    process: float = 1.0
    """w_prc, of the process stream."""
    outcome: float = 1.0
    """w_out, of the outcome stream."""
    format: float = 1.0
    """w_fmt, of the format stream."""

    def __post_init__(self) -> None:
        for stream in ("process", "outcome", "format"):
            _set(self, stream, _number(getattr(self, stream), option=f"weights.{stream}"))

    @property
    def total(self) -> float:
        """W, the factor on the format score of a rollout that fails the format gate (Eq. 4)."""
        return self.process + self.outcome + self.format


@dataclass(frozen=True, kw_only=True)
class Standardizers(_Options):
    """One standardization operator for each stream, for estimators that standardize the streams separately.

    abs_max is meant for KL-style process signals: on 0/1 rewards it gives no negative advantage.

    Raises:
        OptionError: an unknown operator.
    """

    process: Operator = "masked_norm"
    """Operator of the process stream."""
    outcome: Operator = "masked_norm"
    """Operator of the outcome stream."""
    format: Operator = "masked_norm"
    """Operator of the format stream."""

    def __post_init__(self) -> None:
        for stream in ("process", "outcome", "format"):
            _choice(getattr(self, stream), OPERATORS, option=f"standardize.{stream}")


@dataclass(frozen=True, kw_only=True)
class ShapingConfig(_Options):
    """Which estimator forms the advantages, and its options.

    `k`, `eta` and `chunk` are read by `pass` and `reward_shaping`; the other named estimators ignore them.

    Raises:
        OptionError: an unknown name, a value of another type, or one outside its range.
    """

    estimator: Estimator | PublishedName | str = "pass"
    """How advantages are formed: pass (AF, CV, DL), another named method, or a function of your own as module:function,
    which is imported only when rollouts are shaped (`pass_ops.group` says what it is given and must return)."""
    signal: Signal = "prm"
    """prm: the process signal has one score per step with its end; kl: one score per token."""
    standardize: Operator | Standardizers = "masked_norm"
    """Operator N(x; S) of all streams, or one per stream for pass and gdpo; your own function reads
    config.standardizers. rloo, dr_grpo and prime bring their own and ignore it."""
    weights: Weights = Weights()
    """Weights of the three reward streams; a stream of weight 0 is left out."""
    k: Annotated[float, Ge(0), Le(1)] = 0.7
    """Exponent of Divide-Length, from 0, the plain return-to-go ("PASS without DL"), to 1, the average."""
    eta: Annotated[float, Ge(0)] = 1e-8
    """Tolerance of Chunk-by-Value for a kl trace: a token whose score differs more from the first of its chunk begins a
    new one."""
    chunk: bool = True
    """Whether tokens are grouped into chunks; false makes every unmasked token a chunk ("PASS without CV")."""
    std_ddof: Literal[0, 1] = 1
    """Standard deviation in masked_norm: 1 = of a sample, 0 = of a population."""
    std_eps: Annotated[float, Ge(0)] = 1e-6
    """Added to the standard deviation in masked_norm, so that equal scores do not divide by 0."""

    def __post_init__(self) -> None:
        if isinstance(self.estimator, str) and ":" in self.estimator:
            _check_path(self.estimator)
        else:
            known = (*ESTIMATORS, *PUBLISHED)
            _choice(self.estimator, known, option="estimator", others=" (your own is given as module:function)")
        _choice(self.signal, SIGNALS, option="signal")
        if not isinstance(self.standardize, Standardizers):
            _choice(self.standardize, OPERATORS, option="standardize")
        elif self.estimator in TOGETHER:
            raise OptionError(
                f"option standardize: one operator per stream needs streams that are standardized separately, but "
                f"estimator {self.estimator!r} standardizes them together; "
                f"choose one of {', '.join(map(repr, OPERATORS))}"
            )
        if not isinstance(self.weights, Weights):
            raise OptionError(
                f"option weights: expected Weights(process=, outcome=, format=), got {self.weights!r}; "
                f"build a pass_ops.Weights"
            )
        _set(self, "k", _number(self.k, option="k", low=0.0, high=1.0))
        _set(self, "eta", _number(self.eta, option="eta", low=0.0))
        if not isinstance(self.chunk, bool):
            raise OptionError(f"option chunk: expected True or False, got {self.chunk!r}; give a bool")
        if isinstance(self.std_ddof, bool) or self.std_ddof not in (0, 1):
            raise OptionError(
                f"option std_ddof: expected 0 (population) or 1 (sample), got {self.std_ddof!r}; choose one of them"
            )
        _set(self, "std_ddof", int(self.std_ddof))
        _set(self, "std_eps", _number(self.std_eps, option="std_eps", low=0.0))

    @cached_property
    def standardizers(self) -> Standardizers:
        """The operator of each stream."""
        one = OWN_OPERATOR.get(self.estimator, self.standardize)
        if isinstance(one, Standardizers):
            return one
        return Standardizers(process=one, outcome=one, format=one)

    @property
    def reads_process(self) -> bool:
        """Whether the process signal is read: always, never, or where its weight is not 0."""
        if self.estimator in WITHOUT_PROCESS:
            return False
        return self.estimator in WITH_PROCESS or self.weights.process != 0.0


def load_estimator(path: str) -> Callable[..., Any]:
    """Import the function that `module:function` names.

    Raises:
        OptionError: there is no such module or function, or it cannot be called.
    """
    try:
        function: object = load_object(path)
    except (ImportError, ValueError) as error:
        raise OptionError(
            f"option estimator: {path!r} cannot be imported ({error}); "
            "put the module on the import path (PYTHONPATH), or name another estimator"
        ) from error
    if not callable(function):
        raise OptionError(
            f"option estimator: {path!r} is {function!r}, which cannot be called; name a function of (group, config)"
        )
    return function


def _check_path(path: str) -> None:
    try:
        split_path(path)
    except ValueError as error:
        raise OptionError(f"option estimator: {error}") from None
