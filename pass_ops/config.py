"""Options of shaping: frozen, checked when they are made, compared and printed as plain values."""

from __future__ import annotations

import difflib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self

from pass_ops.errors import OptionError

Signal = Literal["prm", "kl"]
Operator = Literal["masked_norm", "abs_max", "mean_only", "leave_one_out", "none"]

#: estimators by name; any other is given as an import path `module:function`, see `pass_ops.group`
ESTIMATORS = ("pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime")
SIGNALS: tuple[Signal, ...] = ("prm", "kl")
OPERATORS: tuple[Operator, ...] = ("masked_norm", "abs_max", "mean_only", "leave_one_out", "none")

#: those that never read the process signal, and those that read it whatever its weight, for their chunks
WITHOUT_PROCESS = ("grpo_outcome", "rloo", "dr_grpo", "gdpo")
WITH_PROCESS = ("pass", "reward_shaping", "grpo_process")
#: those that add streams up, or pool them, before they standardize
TOGETHER = ("reward_shaping", "grpo_process", "grpo_outcome")
#: those whose operator is part of their name
OWN_OPERATOR: dict[str, Operator] = {"rloo": "leave_one_out", "dr_grpo": "mean_only", "prime": "leave_one_out"}


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)  # normalizing a field of a frozen dataclass while it is being made


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(repr(choice) for choice in choices)


def _choice(value: Any, choices: Sequence[str], *, option: str, others: str = "") -> None:
    if isinstance(value, str) and value in choices:
        return
    near = difflib.get_close_matches(str(value).lower(), choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
    raise OptionError(f"option {option}: unknown value {value!r}; the choices are {_listed(choices)}{others}; {hint}")


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
    """Refuses an unknown option by name, as an unknown value is refused, rather than by a TypeError."""

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
                raise OptionError(f"{cls.__name__}: unknown option {name!r}; the options are {_listed(known)}; {hint}")
        return super().__new__(cls)


@dataclass(frozen=True, kw_only=True)
class Weights(_Options):
    """Weights w_prc, w_out, w_fmt of the three reward streams (paper Eq. 4). A stream of weight 0 is left out.

    Raises:
        OptionError: a weight is not a finite number.
    """

    process: float = 1.0
    outcome: float = 1.0
    format: float = 1.0

    def __post_init__(self) -> None:
        for stream in ("process", "outcome", "format"):
            _set(self, stream, _number(getattr(self, stream), option=f"weights.{stream}"))

    @property
    def total(self) -> float:
        """W, what a rollout with failed format is multiplied with (Eq. 4)."""
        return self.process + self.outcome + self.format


@dataclass(frozen=True, kw_only=True)
class Standardizers(_Options):
    """One standardization operator for each stream, for estimators that standardize the streams apart.

    abs_max is meant for KL-style process signals: on 0/1 rewards it gives no negative advantage.

    Raises:
        OptionError: an unknown operator.
    """

    process: Operator = "masked_norm"
    outcome: Operator = "masked_norm"
    format: Operator = "masked_norm"

    def __post_init__(self) -> None:
        for stream in ("process", "outcome", "format"):
            _choice(getattr(self, stream), OPERATORS, option=f"standardize.{stream}")


@dataclass(frozen=True, kw_only=True)
class ShapingConfig(_Options):
    """Which estimator forms the advantages, and its options.

    Attributes:
        estimator: `pass` (AF, CV, DL), `reward_shaping`, `grpo_process`, `grpo_outcome`, `rloo`, `dr_grpo`, `gdpo`,
            `prime`, or your own function as "module:function" (`pass_ops.Group` says what it gets and gives).
        signal: `prm`, one score per step with its end, or `kl`, one score per token.
        standardize: operator N(x; S) of all streams, or `Standardizers` (`pass` and `gdpo`; your own function reads
            `config.standardizers`). `rloo`, `dr_grpo` and `prime` bring their own and ignore it.
        weights: w_prc, w_out, w_fmt.
        k: exponent of Divide-Length in [0, 1]; 0 is the plain return-to-go ("PASS without DL"), 1 the average.
        eta: tolerance of Chunk-by-Value for a `kl` trace, at least 0.
        chunk: False makes every unmasked token a chunk ("PASS without CV").
        std_ddof: 1 (sample) or 0 (population) standard deviation in `masked_norm`.
        std_eps: added to the standard deviation, at least 0.

    `k`, `eta` and `chunk` are read by `pass` and `reward_shaping`; the other named estimators ignore them.

    Raises:
        OptionError: an unknown name, an import path that leads to no function, or a value outside its range.
    """

    estimator: str = "pass"
    signal: Signal = "prm"
    standardize: Operator | Standardizers = "masked_norm"
    weights: Weights = Weights()
    k: float = 0.7
    eta: float = 1e-8
    chunk: bool = True
    std_ddof: int = 1
    std_eps: float = 1e-6

    def __post_init__(self) -> None:
        if isinstance(self.estimator, str) and ":" in self.estimator:
            load_estimator(self.estimator)
        else:
            _choice(
                self.estimator, ESTIMATORS, option="estimator", others="; your own function is given as module:function"
            )
        _choice(self.signal, SIGNALS, option="signal")
        if not isinstance(self.standardize, Standardizers):
            _choice(self.standardize, OPERATORS, option="standardize")
        elif self.estimator in TOGETHER:
            raise OptionError(
                f"option standardize: one operator per stream only works where streams are standardized apart, and "
                f"estimator {self.estimator!r} standardizes them together; give one of {_listed(OPERATORS)}"
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
    """The function that the import path `module:function` names. Raises OptionError where it leads to none."""
    where = f"option estimator: {path!r}"
    try:
        function: object = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"{where} leads nowhere ({error}); give module:function, with the module on the import path"
        ) from error
    if not callable(function):
        raise OptionError(f"{where} is {function!r}, which cannot be called; name a function of (group, config)")
    return function
