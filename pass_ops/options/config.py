"""Options of shaping: frozen, checked when they are made, compared and printed as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le

from pass_ops.errors import OptionError
from pass_ops.options.checking import Options, check_choice, check_number, set_field
from pass_ops.options.methods import METHODS, Method
from pass_ops.options.presets import PRESETS, expanded
from pass_ops.options.published import PUBLISHED, PublishedName, check_options, check_weights
from pass_ops.options.streams import Fused, Stream, check_streams
from pass_ops.support.importing import load_object, split_path

Estimator = Literal["pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime"]
Signal = Literal["prm", "kl"]
Operator = Literal["masked_norm", "abs_max", "mean_only", "leave_one_out", "none"]

#: estimators by name, but for those of `pass_ops.options.published`; a function of your own is given by its import path
#: `module:function`, see `pass_ops.group`
ESTIMATORS = get_args(Estimator)
SIGNALS: tuple[Signal, ...] = get_args(Signal)
OPERATORS: tuple[Operator, ...] = get_args(Operator)

#: those that never read the process signal, and those that always do: their chunks come from it
WITHOUT_PROCESS = (
    *(name for name, method in METHODS.items() if method.process == "never"),
    *(name for name, published in PUBLISHED.items() if published.function and not published.reads_process),
)
WITH_PROCESS = tuple(name for name, method in METHODS.items() if method.process == "always")


@dataclass(frozen=True, kw_only=True)
class Weights(Options):
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
            set_field(self, stream, check_number(getattr(self, stream), option=f"weights.{stream}"))

    @property
    def total(self) -> float:
        """W, the factor on the format score of a rollout that fails the format gate (Eq. 4)."""
        return self.process + self.outcome + self.format


@dataclass(frozen=True, kw_only=True)
class Standardizers(Options):
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
            check_choice(getattr(self, stream), OPERATORS, option=f"standardize.{stream}")


@dataclass(frozen=True, kw_only=True)
class ShapingConfig(Options):
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
    config.standardizers. rloo, dr_grpo, prime and the methods of docs/reference/methods.md bring their own and ignore
    it."""
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
    method_options: Mapping[str, float] | None = field(default=None, hash=False)
    """Keywords of a method that is a function of a group, such as temperature of pure (docs/reference/methods.md)."""
    streams: Mapping[str, Stream] | None = field(default=None, hash=False)
    """Signals that are each shaped in their own way, by name, in the place of process, outcome and format; then
    `estimator`, `signal`, `standardize` and `weights` stay as they are by default."""
    right: str = "outcome"
    """With streams: the signal that says which rollouts are right, for gates and pools."""
    right_above: float = 0.0
    """With streams: a rollout is right where that signal is above this."""
    fused: Fused | None = None
    """With streams: how their fused sum is standardized once more."""
    chunk_by: tuple[str, ...] = ()
    """With streams: the names of those whose boundaries cut chunks; by default all of step or token level."""
    divide: bool = True
    """With streams: whether Divide-Length follows; false makes a chunk's advantage its credit."""

    def __post_init__(self) -> None:
        if isinstance(self.estimator, str) and ":" in self.estimator:
            _check_path(self.estimator)
        else:
            known = (*ESTIMATORS, *PUBLISHED)
            check_choice(self.estimator, known, option="estimator", others=" (your own is given as module:function)")
        check_choice(self.signal, SIGNALS, option="signal")
        if not isinstance(self.standardize, Standardizers):
            check_choice(self.standardize, OPERATORS, option="standardize")
        elif self.method is not None and not self.method.operator_per_stream:
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
        set_field(self, "k", check_number(self.k, option="k", low=0.0, high=1.0))
        set_field(self, "eta", check_number(self.eta, option="eta", low=0.0))
        if not isinstance(self.chunk, bool):
            raise OptionError(f"option chunk: expected True or False, got {self.chunk!r}; give a bool")
        if isinstance(self.std_ddof, bool) or self.std_ddof not in (0, 1):
            raise OptionError(
                f"option std_ddof: expected 0 (population) or 1 (sample), got {self.std_ddof!r}; choose one of them"
            )
        set_field(self, "std_ddof", int(self.std_ddof))
        set_field(self, "std_eps", check_number(self.std_eps, option="std_eps", low=0.0))
        set_field(self, "method_options", check_options(self.estimator, self.method_options))
        check_weights(self.estimator, asdict(self.weights))
        if self.estimator in PRESETS:
            for name, value in expanded(self).items():
                set_field(self, name, value)
        if self.streams is None:
            self._refuse_without_streams()
        else:
            self._check_streams()

    def signal_of(self, stream: str) -> str:
        """The signal that a method's stream `process`, `outcome` or `format` reads."""
        return stream

    def _refuse_without_streams(self) -> None:
        for item in fields(ShapingConfig):
            if item.name in STREAMS_ONLY and getattr(self, item.name) != item.default:
                raise OptionError(
                    f"option {item.name}: only streams read it, and there are none; name them in streams, or leave "
                    f"{item.name} out"
                )

    def _check_streams(self) -> None:
        for name, instead in _INSTEAD.items():
            default = {item.name: item.default for item in fields(ShapingConfig)}[name]
            if getattr(self, name) != default:
                raise OptionError(f"option {name}: with streams it is not read; {instead}, and leave {name} out")
        streams = check_streams(self.streams)
        set_field(self, "streams", streams)
        if not isinstance(self.right, str) or not self.right:
            raise OptionError(f"option right: expected the name of a signal, got {self.right!r}; name one")
        set_field(self, "right_above", check_number(self.right_above, option="right_above"))
        if self.fused is not None and not isinstance(self.fused, Fused):
            raise OptionError(f"option fused: expected Fused(operator=), got {self.fused!r}; build a pass_ops.Fused")
        if not isinstance(self.divide, bool):
            raise OptionError(f"option divide: expected True or False, got {self.divide!r}; give a bool")
        set_field(self, "chunk_by", _chunk_by(self.chunk_by, streams))
        pooled = [name for name, stream in streams.items() if stream.pool == "dataset"]
        if pooled and self.fused is not None and self.fused.pool == "dataset":
            raise OptionError(
                f"option fused.pool is 'dataset' and so is the pool of stream {pooled[0]!r}: that would take three "
                "passes over the data; keep one of the two"
            )

    @cached_property
    def standardizers(self) -> Standardizers:
        """The operator of each stream."""
        own = self.method.operator if self.method is not None else None
        one = self.standardize if own is None else own
        if isinstance(one, Standardizers):
            return one
        return Standardizers(process=one, outcome=one, format=one)

    @property
    def method(self) -> Method | None:
        """What the named estimator is; None for a function of your own, and for streams, which say it themselves."""
        return None if self.streams is not None else METHODS.get(self.estimator)

    @property
    def reads_process(self) -> bool:
        """Whether the columns process_scores and process_ends are read: always, never, or where the weight is not 0.

        Streams name what they read.
        """
        if self.streams is not None or self.estimator in WITHOUT_PROCESS:
            return False
        return self.estimator in WITH_PROCESS or self.weights.process != 0.0

    @property
    def weights_by_round(self) -> tuple[str, ...]:
        """The streams whose weight is a list of one for each round."""
        return tuple(name for name, stream in (self.streams or {}).items() if isinstance(stream.weight, tuple))

    def at_round(self, number: int) -> ShapingConfig:
        """The configuration of one round: every weight is that of round `number`, counted from 0.

        Raises:
            OptionError: every weight of that round is 0, or `number` is below 0.
        """
        if number < 0:
            raise OptionError(f"round {number}: rounds are counted from 0; give one of at least 0")
        if not self.weights_by_round:
            return self
        streams = {name: stream.at_round(number) for name, stream in (self.streams or {}).items()}
        try:
            return replace(self, streams=streams)
        except OptionError as error:
            raise OptionError(f"round {number}: {error}") from None

    @property
    def dataset_pools(self) -> tuple[str, ...]:
        """The streams whose pool is the whole data set; "" stands for the fused sum."""
        found = [name for name, stream in (self.streams or {}).items() if stream.pool == "dataset"]
        return (*found, *([""] if self.fused is not None and self.fused.pool == "dataset" else []))

    def plain(self) -> dict[str, Any]:
        """The options as plain data. Those that came with streams are left out where they are at their defaults, so
        that a dataset's fingerprint does not depend on the release that knows of them.
        """
        found = {
            item.name: getattr(self, item.name)
            for item in fields(ShapingConfig)
            if item.name not in (*STREAMS_ONLY, "method_options") or getattr(self, item.name) != item.default
        }
        found["weights"] = asdict(self.weights)
        if isinstance(self.standardize, Standardizers):
            found["standardize"] = asdict(self.standardize)
        if self.streams is not None:
            found["streams"] = {name: stream.plain() for name, stream in self.streams.items()}
        if self.fused is not None:
            found["fused"] = self.fused.plain()
        return found

    @staticmethod
    def from_plain(options: Mapping[str, Any]) -> ShapingConfig:
        """The configuration that `plain` gave. Raises OptionError."""
        found = dict(options)
        found["weights"] = Weights(**found["weights"])
        if isinstance(found["standardize"], Mapping):
            found["standardize"] = Standardizers(**found["standardize"])
        if "streams" in found:
            found["streams"] = {name: Stream(**stream) for name, stream in found["streams"].items()}
        if "fused" in found:
            found["fused"] = Fused(**found["fused"])
        return ShapingConfig(**found)


#: options that only streams read
STREAMS_ONLY = ("streams", "right", "right_above", "fused", "chunk_by", "divide")
_INSTEAD = {
    "estimator": "say in each stream how it is shaped",
    "signal": "a stream's columns say what it is",
    "standardize": "give each stream its operator",
    "weights": "give each stream its weight",
}


def _chunk_by(given: Any, streams: Mapping[str, Stream]) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise OptionError(f"option chunk_by: expected a list of streams, got {given!r}; write [{given!r}]")
    for name in given:
        check_choice(name, tuple(streams), option="chunk_by")
    if len(set(given)) != len(given):
        raise OptionError(f"option chunk_by: a stream is named twice in {list(given)!r}; name each once")
    return tuple(sorted(given))


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
