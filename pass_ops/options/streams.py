"""What a stream is: frozen options, checked when they are made. Stdlib only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from pass_ops.errors import OptionError
from pass_ops.options.checking import Options, check_choice, check_number, set_field
from pass_ops.support.importing import split_path
from pass_ops.support.nearest import advice

TransformName = Literal[
    "difference", "min_form", "clip", "compress", "sparsify", "return_to_go", "length_normalization", "function"
]
StreamOperator = Literal["masked_norm", "abs_max", "mean_only", "leave_one_out", "mean_normalized", "rank", "none"]
FusedOperator = Literal["masked_norm", "abs_max", "mean_only", "mean_normalized"]
PoolName = Literal["group", "right", "wrong", "state", "joint", "dataset"]
GateName = Literal["always", "right", "wrong", "single_outcome", "mixed", "format"]

TRANSFORMS: tuple[TransformName, ...] = get_args(TransformName)
STREAM_OPERATORS: tuple[StreamOperator, ...] = get_args(StreamOperator)
FUSED_OPERATORS: tuple[FusedOperator, ...] = get_args(FusedOperator)
POOLS: tuple[PoolName, ...] = get_args(PoolName)
GATES: tuple[GateName, ...] = get_args(GateName)

#: transform -> its options, with their defaults; ... = it must be given
TRANSFORM_OPTIONS: dict[str, dict[str, Any]] = {
    "difference": {"start": 0.0},
    "min_form": {"temperature": 0.1},
    "clip": {"low": None, "high": None},
    "compress": {"scale": 1.0},
    "sparsify": {"keep": ...},
    "return_to_go": {"discount": 1.0},
    "length_normalization": {"power": 1.0},
    "function": {"path": ...},
}
#: transforms along a rollout's elements: a stream of rollout level has only one
ALONG_A_ROLLOUT = ("difference", "min_form", "sparsify", "return_to_go")
#: gates and pools that ask which rollouts are right
ASKS_RIGHT = ("right", "wrong", "single_outcome", "mixed")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Transform(Options):
    """One transform of a stream's values along a rollout (docs/spec/streams.md section 3). Its name may come first:
    Transform("clip", low=-1.0).

    Raises:
        OptionError: an unknown name, or an option that the transform does not have, lacks, or that is out of range.
    """

    name: TransformName
    """Which one: difference, min_form, clip, compress, sparsify, return_to_go, length_normalization or function."""
    start: float | Literal["first", "outcome"] | None = None
    """difference: what the first value is compared with: a number (default 0), itself ("first"), or the group's mean
    outcome ("outcome"). Example: 0.5."""
    temperature: float | None = None
    """min_form: T of softmax(-x / T) * x (default 0.1). Example: 0.1."""
    low: float | None = None
    """clip: the smallest value left. Example: -1.0."""
    high: float | None = None
    """clip: the largest value left. Example: 1.0."""
    scale: float | None = None
    """compress: s of s * tanh(x / s) (default 1). Example: 1.0."""
    keep: float | None = None
    """sparsify: the share of a rollout's values that stay, those of largest size; the others become 0. Example: 0.2."""
    discount: float | None = None
    """return_to_go: from 0 to 1 (default 1). Example: 0.95."""
    power: float | None = None
    """length_normalization: p of x / n^p, from 0 to 1 (default 1). Example: 0.5."""
    path: str | None = None
    """function: your own, as module:function; an array of one rollout's values in, one of the same length out.
    Example: "mymodule:squashed"."""

    def __init__(self, name: TransformName, **options: Any) -> None:
        set_field(self, "name", name)
        for item in fields(self)[1:]:
            set_field(self, item.name, options.get(item.name))
        self.__post_init__()

    def __post_init__(self) -> None:
        check_choice(self.name, TRANSFORMS, option="transform")
        known = TRANSFORM_OPTIONS[self.name]
        for item in fields(self)[1:]:
            given = getattr(self, item.name)
            if item.name not in known:
                if given is not None:
                    raise OptionError(
                        f"transform {self.name!r} has no option {item.name!r}; {advice(item.name, known, listed=True)}"
                    )
            elif given is None and known[item.name] is ...:
                raise OptionError(f"transform {self.name!r} needs its option {item.name!r}; give it")
            elif given is None:
                set_field(self, item.name, known[item.name])
        self._check_values()

    def _check_values(self) -> None:
        where = f"transform {self.name!r}: "
        for name, low, high in (("keep", 0.0, 1.0), ("discount", 0.0, 1.0), ("power", 0.0, 1.0)):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, check_number(value, option=where + name, low=low, high=high))
        for name in ("temperature", "scale", "low", "high"):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, check_number(value, option=where + name))
        for name in ("temperature", "scale", "keep"):
            if (value := getattr(self, name)) is not None and not value > 0.0:
                raise OptionError(f"option {where}{name} is {value:g}; give a number above 0")
        if self.name == "clip":
            self._check_clip()
        if self.start is not None and self.start not in ("first", "outcome"):
            if isinstance(self.start, str):
                raise OptionError(
                    f"option {where}start: unknown value {self.start!r}; give a number, 'first' or 'outcome'"
                )
            set_field(self, "start", check_number(self.start, option=f"{where}start"))
        if self.path is not None:
            try:
                split_path(self.path)
            except (TypeError, ValueError) as error:
                raise OptionError(f"option {where}path: {error}") from None

    def _check_clip(self) -> None:
        if self.low is None and self.high is None:
            raise OptionError("transform 'clip' has neither low nor high, so it changes nothing; give one of them")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise OptionError(
                f"transform 'clip': low {self.low:g} is above high {self.high:g}; every value would become "
                f"{self.high:g}; exchange them"
            )

    def plain(self) -> dict[str, Any]:
        """Name and options as plain data, those at their defaults left out."""
        known = TRANSFORM_OPTIONS[self.name]
        return {"name": self.name} | {
            name: getattr(self, name) for name, default in known.items() if getattr(self, name) != default
        }


@dataclass(frozen=True, kw_only=True)
class Stream(Options):
    """One signal, and how it is shaped (docs/spec/streams.md).

    Raises:
        OptionError: a value of another type or outside its range, a pool without its key, or a key no pool uses.
    """

    signal: str
    """The signal's name: its values are in the column of this name, or in NAME_scores, NAME_reward, NAME_logprobs and
    so on. Example: "process"."""
    weight: float | tuple[float, ...] | Mapping[str, float] = 1.0
    """w of the fusion: a number, or one for each round, as a list (the last holds on) or a table round -> number."""
    transform: tuple[TransformName | Transform, ...] = ()
    """What is done to the values before they are standardized, in order. Example: ["return_to_go"]."""
    operator: StreamOperator = "masked_norm"
    """N(x; S), how values are standardized over their pool."""
    pool: PoolName = "group"
    """S, what a value is measured against: the group, its right or wrong rollouts, equal states, all streams of pool
    joint together, or the whole data set."""
    key: str | None = None
    """Pool state: the column whose equal values make a pool. Example: "state"."""
    after: tuple[TransformName | Transform, ...] = ()
    """What is done to the standardized values, in order. Example: ["return_to_go"]."""
    gate: GateName | tuple[GateName, ...] = "always"
    """In which rollouts the stream counts; of several gates all must be open. Example: ["single_outcome", "wrong"]."""
    otherwise: str | None = None
    """The stream that gets this one's weight where the gate is closed. Example: "format"."""

    def __post_init__(self) -> None:
        if not isinstance(self.signal, str) or not self.signal:
            raise OptionError(f"option signal: expected the name of a signal, got {self.signal!r}; name one")
        set_field(self, "weight", _weight(self.weight))
        for name in ("transform", "after"):
            set_field(self, name, _transforms(getattr(self, name), option=name))
        check_choice(self.operator, STREAM_OPERATORS, option="operator")
        check_choice(self.pool, POOLS, option="pool")
        set_field(self, "gate", _gates(self.gate))
        for name in ("key", "otherwise"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, str) or not given):
                raise OptionError(f"option {name}: expected a name, got {given!r}; give one, or leave it out")
        self._check_pool()
        if self.gate == "always" and self.otherwise is not None:
            raise OptionError(
                f"option otherwise is {self.otherwise!r}, but the gate is 'always', so it never closes; "
                "set a gate, or leave otherwise out"
            )

    def _check_pool(self) -> None:
        if self.pool == "state" and self.key is None:
            raise OptionError(
                "option pool is 'state', which needs the column whose equal values make a pool; name it in key"
            )
        if self.pool != "state" and self.key is not None:
            raise OptionError(f"option key is {self.key!r}, which only pool 'state' reads; set pool to it, or drop key")
        if self.operator == "rank" and self.pool == "dataset":
            raise OptionError(
                "operator 'rank' needs every value of its pool, and of pool 'dataset' only sums are recorded; "
                "choose pool 'group', or another operator"
            )
        if self.operator == "leave_one_out" and self.pool in ("right", "wrong") and self.pool not in self.gates:
            raise OptionError(
                f"operator 'leave_one_out' compares a rollout with the others of its pool, but with pool {self.pool!r} "
                f"and gate {', '.join(map(repr, self.gates))} rollouts outside the pool count too; "
                f"set gate to {self.pool!r}"
            )

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """`transform` and then `after`."""
        return tuple(one for one in (*self.transform, *self.after) if isinstance(one, Transform))

    @property
    def asks_right(self) -> bool:
        """Whether it must be known which rollouts are right."""
        named = any(name in ASKS_RIGHT for name in (*self.gates, self.pool))
        return named or any(one.start == "outcome" for one in self.transforms)

    @property
    def ever_weighs(self) -> bool:
        """Whether the weight is other than 0 in some round."""
        return any(weight != 0.0 for weight in self.weights)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each round, or the one of all."""
        return self.weight if isinstance(self.weight, tuple) else (float(self.weight),)  # type: ignore[arg-type]

    @property
    def gates(self) -> tuple[str, ...]:
        """All that must be open."""
        return self.gate if isinstance(self.gate, tuple) else (self.gate,)

    def at_round(self, number: int) -> Stream:
        """The same with the weight of one round."""
        if not isinstance(self.weight, tuple):
            return self
        return replace(self, weight=self.weight[min(number, len(self.weight) - 1)])

    def plain(self) -> dict[str, Any]:
        """The options as plain data, those at their defaults left out."""
        found: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("transform", "after"):
                value = [one.plain() for one in value]
            if value not in (item.default, []):
                found[item.name] = list(value) if isinstance(value, tuple) else value
        return found


@dataclass(frozen=True, kw_only=True)
class Fused(Options):
    """How the fused sum is standardized once more (docs/spec/streams.md section 6).

    Raises:
        OptionError: an unknown value.
    """

    operator: FusedOperator
    """N(A; S_A) of the fused sum. Example: "masked_norm"."""
    pool: Literal["group", "dataset"] = "group"
    """S_A: the values of the group, or of the whole data set."""
    per: Literal["element", "token"] = "element"
    """What S_A counts once: an element of the finest stream (rollout, step or token), or every token that counts."""

    def __post_init__(self) -> None:
        check_choice(self.operator, FUSED_OPERATORS, option="fused.operator")
        check_choice(self.pool, ("group", "dataset"), option="fused.pool")
        check_choice(self.per, ("element", "token"), option="fused.per")

    def plain(self) -> dict[str, Any]:
        """The options as plain data, those at their defaults left out."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default}


def check_streams(streams: Any) -> dict[str, Stream]:
    """The streams in the order of their names, checked against one another.

    Raises:
        OptionError: no table of streams, a name that is none, an `otherwise` that leads nowhere or in a circle, joint
            streams of several operators, or only weights of 0.
    """
    if not isinstance(streams, Mapping) or not streams:
        raise OptionError(
            f"option streams: expected a table of at least one stream by name, got {streams!r}; "
            "give {'name': Stream(signal=...)}, or leave streams out"
        )
    for name, stream in streams.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OptionError(
                f"option streams: {name!r} is no name of a stream; begin with a letter and use letters, digits and _"
            )
        if not isinstance(stream, Stream):
            raise OptionError(f"option streams.{name}: expected a Stream, got {stream!r}; build a pass_ops.Stream")
    found = dict(sorted(streams.items()))
    for name in found:
        _check_chain(name, found)
    joint = {name: stream.operator for name, stream in found.items() if stream.pool == "joint"}
    if len(set(joint.values())) > 1:
        listed = ", ".join(f"{name} {operator!r}" for name, operator in joint.items())
        raise OptionError(
            f"option streams: streams of pool 'joint' share one set of values and one operator, but there are "
            f"{listed}; give them the same operator"
        )
    if not any(stream.ever_weighs for stream in found.values()):
        raise OptionError("option streams: every weight is 0, so every advantage would be 0; give one stream a weight")
    return found


def chain(name: str, streams: Mapping[str, Stream]) -> Iterator[str]:
    """The stream and those that its weight goes on to, in order. Ends where a name comes again."""
    seen: list[str] = []
    at: str | None = name
    while at is not None and at not in seen:
        yield at
        seen.append(at)
        at = streams[at].otherwise


def _check_chain(name: str, streams: Mapping[str, Stream]) -> None:
    seen = [name]
    while (target := streams[seen[-1]].otherwise) is not None:
        if target not in streams:
            raise OptionError(
                f"option streams.{seen[-1]}.otherwise: there is no stream {target!r}; {advice(target, streams)}"
            )
        if target in seen:
            circle = " -> ".join([*seen[seen.index(target) :], target])
            raise OptionError(
                f"option streams.{target}.otherwise: {circle} is a circle, so a weight would never arrive; "
                "leave one otherwise out"
            )
        seen.append(target)


def _weight(given: Any) -> float | tuple[float, ...]:
    if isinstance(given, Mapping):
        given = _by_round(given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        if not given:
            raise OptionError("option weight: the list of weights by round is empty; give one number or more")
        return tuple(check_number(one, option=f"weight of round {number}") for number, one in enumerate(given))
    return check_number(given, option="weight")


def _by_round(table: Mapping[Any, Any]) -> list[Any]:
    rounds: dict[int, Any] = {}
    for key, value in table.items():
        text = str(key)
        if isinstance(key, bool) or not re.fullmatch(r"0|[1-9][0-9]{0,8}", text):
            raise OptionError(f"option weight: {key!r} is no round; give rounds as whole numbers from 0")
        if int(text) in rounds:
            raise OptionError(f"option weight: round {text} is there twice; keep one of them")
        rounds[int(text)] = value
    last = max(rounds, default=-1)
    gap = next((number for number in range(last + 1) if number not in rounds), None)
    if gap is not None:
        raise OptionError(
            f"option weight: round {last} has a weight and round {gap} has none; give every round from 0 to {last} one"
        )
    return [rounds[number] for number in range(last + 1)]


def _gates(given: Any) -> GateName | tuple[GateName, ...]:
    if not isinstance(given, (list, tuple)):
        check_choice(given, GATES, option="gate")
        return given  # type: ignore[no-any-return]
    for one in given:
        check_choice(one, GATES[1:] if len(given) > 1 else GATES, option="gate")
    if not given or len(set(given)) != len(given):
        raise OptionError(f"option gate: expected different gates, got {list(given)!r}; name each once, at least one")
    return given[0] if len(given) == 1 else tuple(sorted(given))  # type: ignore[no-any-return]


def _transforms(given: Any, *, option: str) -> tuple[Transform, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise OptionError(f"option {option}: expected a list of transforms, got {given!r}; write [{given!r}]")
    return tuple(_transform(one, option=option) for one in given)


def _transform(given: Any, *, option: str) -> Transform:
    if isinstance(given, Transform):
        return given
    if isinstance(given, str):
        check_choice(given, TRANSFORMS, option=option)
        return Transform(given)  # type: ignore[arg-type]
    if not isinstance(given, Mapping):
        raise OptionError(f"option {option}: {given!r} is no transform; give a name or a pass_ops.Transform")
    if "name" not in given:
        raise OptionError(f"option {option}: {dict(given)!r} does not say which transform it is; give it a name")
    return Transform(**given)


def check_level(level: str, stream: Stream, *, name: str) -> None:
    """Refuse transforms along a rollout's elements where it has only one.

    Raises:
        OptionError: names stream and transform.
    """
    for one in stream.transforms:
        if level == "rollout" and one.name in ALONG_A_ROLLOUT:
            raise OptionError(
                f"option streams.{name}: transform {one.name!r} runs along the steps or tokens of a rollout, but "
                f"signal {stream.signal!r} has one value for each rollout; leave it out, or name a signal with a value "
                "for each step or token"
            )
