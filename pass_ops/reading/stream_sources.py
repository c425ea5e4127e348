"""Which columns the streams read, and at which level (docs/spec/streams.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa

from pass_ops.errors import ColumnTypeError, MissingColumnError, OptionError
from pass_ops.options.config import ShapingConfig
from pass_ops.options.streams import chain, check_level
from pass_ops.reading import columns

Level = Literal["rollout", "step", "token"]
#: what a signal's column of values may be called, behind the signal's name; the first that is there counts
VALUES = (
    "", "_scores", "_reward", "_ok", "_logprobs",
    "_process_scores", "_outcome_reward", "_format_reward", "_format_ok",
)  # fmt: skip
#: suffix of the values -> suffix of the exclusive token ends of steps
ENDS = {"": "_ends", "_scores": "_ends", "_process_scores": "_process_ends"}


class Source(NamedTuple):
    """The columns of one signal."""

    values: str
    ends: str | None
    level: Level


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read of a table.

    sources: stream -> its columns, of the streams that are read, in the order of their names. keys: stream -> key
    column. right: column of the signal that says which rollouts are right, where that is asked. gated: format_ok is.
    cutters: streams that cut chunks. types: column -> the type it is read as.
    """

    sources: Mapping[str, Source]
    keys: Mapping[str, str]
    right: str | None
    gated: bool
    cutters: tuple[str, ...]
    types: Mapping[str, pa.DataType]

    @property
    def per_token(self) -> bool:
        """Whether some stream has a value for each token."""
        return any(source.level == "token" for source in self.sources.values())


def read_streams(config: ShapingConfig) -> tuple[str, ...]:
    """The names of the streams that count: by weight, as one that cuts chunks, or as one that a weight may go on to.

    Of weights by round one other than 0 is enough.
    """
    streams = config.streams or {}
    counting = [name for name, stream in streams.items() if stream.ever_weighs or name in config.chunk_by]
    found = {at for name in counting for at in chain(name, streams)}
    return tuple(name for name in streams if name in found)


def plan(table: pa.Table, config: ShapingConfig) -> Plan:
    """Find the columns of every stream that is read.

    Raises:
        OptionError: weights by round, a transform along a rollout at rollout level, or chunks by a stream of that
            level.
        MissingColumnError, ColumnTypeError: a column is missing, or of another type.
    """
    if config.weights_by_round:
        raise OptionError(
            f"option streams.{config.weights_by_round[0]}.weight has one number for each round, and it is not said "
            "which round this is; shape with config.at_round(number)"
        )
    streams = {name: (config.streams or {})[name] for name in read_streams(config)}
    sources = {name: find_source(table, stream.signal, what=f"stream {name!r}") for name, stream in streams.items()}
    for name, stream in streams.items():
        check_level(sources[name].level, stream, name=name)
        if sources[name].level == "rollout" and name in config.chunk_by:
            raise OptionError(
                f"option chunk_by: stream {name!r} has one value for each rollout, so it has no boundaries; "
                "name a stream of step or token level"
            )
    keys = {name: stream.key for name, stream in streams.items() if stream.key is not None}
    for name, key in keys.items():
        columns.require(table, key, needed_by=f"the pool 'state' of stream {name!r}")
    asks_right = any(stream.asks_right for stream in streams.values())
    right = _right(table, config.right) if asks_right else None
    gated = any("format" in stream.gates for stream in streams.values())
    cutters = config.chunk_by or tuple(name for name, source in sources.items() if source.level != "rollout")
    return Plan(
        sources=sources,
        keys=keys,
        right=right,
        gated=gated,
        cutters=cutters if config.chunk else (),
        types=_types(table, sources, right=right, gated=gated),
    )


def find_source(table: pa.Table, signal: str, *, what: str) -> Source:
    """The columns of a signal, and its level.

    Raises:
        MissingColumnError: there is none, or one twice. ColumnTypeError: no numbers, or ends beside single numbers.
    """
    present = table.column_names
    suffix = next((suffix for suffix in VALUES if signal + suffix in present), None)
    if suffix is None:
        near = ", ".join(present) or "(the table has none)"
        raise MissingColumnError(
            f"{what}: signal {signal!r} has no column; its values are looked for in {signal}, {signal}_scores, "
            f"{signal}_reward, {signal}_logprobs and so on; add one to the columns {near}"
        )
    values = signal + suffix
    column = columns.require(table, values, needed_by=what)
    ends = signal + ENDS[suffix] if suffix in ENDS else None
    ends = ends if ends in present else None
    if not _holds_numbers(column.type):
        raise ColumnTypeError(
            f"{what}: column {values!r} is {columns.short_type(column.type)}, expected float32 or list<float32>; "
            "name a signal of numbers"
        )
    listed = columns.is_list(column.type) or (ends is not None and pa.types.is_null(column.type))
    if ends is not None and not listed:
        raise ColumnTypeError(
            f"{what}: column {values!r} has one number for each rollout, and {ends!r} beside it says where steps end; "
            "store a list of one number for each step, or drop the ends"
        )
    return Source(values, ends, "rollout" if not listed else "step" if ends else "token")


def _holds_numbers(kind: pa.DataType) -> bool:
    inner = kind.value_type if columns.is_list(kind) else kind
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    tests = pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null
    return any(test(inner) for test in tests)


def _right(table: pa.Table, signal: str) -> str:
    """The column that says which rollouts are right."""
    found = find_source(table, signal, what="option right")
    if found.level != "rollout":
        raise OptionError(
            f"option right: signal {signal!r} has a value for each {found.level}; name one with a value for each "
            "rollout"
        )
    return found.values


def _types(table: pa.Table, sources: Mapping[str, Source], *, right: str | None, gated: bool) -> dict[str, pa.DataType]:
    """Column -> the type it is read as. Raises OptionError where one would be read as two types."""
    found: dict[str, pa.DataType] = {"loss_mask": columns.TOKENS_OF_BOOL}
    for name, source in sources.items():
        wanted = {source.values: pa.float32() if source.level == "rollout" else columns.LIST_OF_FLOAT32}
        if source.ends is not None:
            wanted[source.ends] = columns.LIST_OF_INT32
        for column, kind in wanted.items():
            if found.setdefault(column, kind) != kind:
                raise OptionError(
                    f"option streams.{name}: column {column!r} would be read as a signal's values and as what masks "
                    "tokens or ends steps; store the signal in a column of its own"
                )
    if right is not None:
        found[right] = pa.float32()
    if gated:
        found.setdefault("format_ok", pa.bool_())
    for name in found:
        columns.require(table, name, needed_by="gate 'format'" if name == "format_ok" else "shaping")
    return found
