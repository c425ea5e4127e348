"""Arrow schemas of the stages (docs/spec/contract.md section 3). Lists are `list<element not null>`; "?" of the
contract is nullable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pass_ops.errors import PartError

SIGNAL_KINDS = ("outcome", "format", "process_steps", "process_tokens", "logprobs")
STATUSES = ("ok", "timeout", "error", "too_long", "no_input", "neg_inf")
VERIFY_STATUSES = ("ok", "wrong", "unparseable", "timeout", "error", "unknown")
FINISH_REASONS = ("stop", "length")
#: columns of rollouts that an import may not know: null where `imported.unknown` of `_dataset.json` names them
MAY_BE_UNKNOWN = ("prompt_token_ids", "token_ids", "behavior_logprobs", "loss_mask", "finish_reason", "seed")


def _list_of(element: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", element, nullable=False))


INT_LIST, FLOAT_LIST, BOOL_LIST = _list_of(pa.int32()), _list_of(pa.float32()), _list_of(pa.bool_())
_MESSAGES = _list_of(
    pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
)


def _always(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


PROMPTS = pa.schema(
    [
        _always("prompt_id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("messages", _MESSAGES),
        pa.field("answer", pa.string()),
        _always("source", pa.string()),
        pa.field("extra", pa.string()),
    ]
)

ROLLOUTS = pa.schema(
    [
        _always("group_id", pa.string()),
        _always("sample_index", pa.int32()),
        _always("rollout_id", pa.string()),
        _always("prompt_token_ids", INT_LIST),
        _always("token_ids", INT_LIST),
        _always("text", pa.string()),
        _always("behavior_logprobs", FLOAT_LIST),
        _always("loss_mask", BOOL_LIST),
        _always("finish_reason", pa.string()),
        _always("seed", pa.int64()),
        pa.field("answer", pa.string()),
    ]
)

#: further columns of rollouts that were sampled with token statistics, one value a token, 0.0 where masked
TOKEN_STATISTICS = pa.schema([_always("entropy", FLOAT_LIST), _always("sum_pi_squared", FLOAT_LIST)])

REJECTED = pa.schema(
    [
        _always("stage", pa.string()),
        _always("prompt_id", pa.string()),
        pa.field("sample_index", pa.int32()),
        _always("reason", pa.string()),
        _always("detail", pa.string()),
        _always("transient", pa.bool_()),
        _always("attempts", pa.int32()),
        pa.field("payload", pa.string()),
    ]
)

_KIND_COLUMNS: dict[str, list[pa.Field]] = {
    "outcome": [
        pa.field("outcome_reward", pa.float32()),
        _always("verify_status", pa.string()),
        pa.field("extracted_answer", pa.string()),
    ],
    "format": [pa.field("format_reward", pa.float32()), pa.field("format_ok", pa.bool_())],
    "process_steps": [pa.field("process_scores", FLOAT_LIST), pa.field("process_ends", INT_LIST)],
    "process_tokens": [pa.field("process_scores", FLOAT_LIST)],
    "logprobs": [pa.field("logprobs", FLOAT_LIST)],
}

CHUNK_FIELDS = (
    _always("chunk_ends", INT_LIST),
    _always("chunk_credits", FLOAT_LIST),
    _always("chunk_advantages", FLOAT_LIST),
    pa.field("path_score", pa.float32()),
    _always("trainable", pa.bool_()),
)
_ORIGIN_FIELDS = (_always("policy_digest", pa.string()), _always("round", pa.int32()))


def signal_schema(kind: str) -> pa.Schema:
    """Columns of a signal dataset. kind: outcome, format, process_steps, process_tokens or logprobs."""
    if kind not in _KIND_COLUMNS:
        raise PartError(f"signal kind is {kind!r}; it is one of {', '.join(SIGNAL_KINDS)}")
    head = [_always("rollout_id", pa.string()), _always("status", pa.string()), pa.field("detail", pa.string())]
    return pa.schema(head + _KIND_COLUMNS[kind])


def signal_kind(names: Sequence[str]) -> str:
    """The kind of a signal table by its column names. Raises PartError if they fit none."""
    for kind in SIGNAL_KINDS:  # process_steps before process_tokens, which has a subset of its columns
        if all(column.name in names for column in _KIND_COLUMNS[kind]):
            return kind
    raise PartError(f"the columns {', '.join(names)} fit no kind of signal; the kinds are {', '.join(SIGNAL_KINDS)}")


def shaped_schema(signals: Mapping[str, str], *, reference: str | None = None) -> pa.Schema:
    """Columns of a shaped dataset.

    signals: NAME -> kind, of the signals carried along; at most one process, one outcome and one format signal, any
    number of `logprobs` ones. reference: NAME of the one stored as `reference_logprobs` (the others are stored as
    NAME_logprobs). Every signal also gives status_NAME and detail_NAME.
    """
    columns = list(ROLLOUTS)
    for name, kind in signals.items():
        if kind == "logprobs":
            columns.append(pa.field("reference_logprobs" if name == reference else f"{name}_logprobs", FLOAT_LIST))
        else:
            columns.extend(list(signal_schema(kind))[3:])
        columns += [_always(f"status_{name}", pa.string()), pa.field(f"detail_{name}", pa.string())]
    columns += [*CHUNK_FIELDS, *_ORIGIN_FIELDS]
    twice = {field.name for field in columns if sum(other.name == field.name for other in columns) > 1}
    if twice:
        raise PartError(
            f"two signals give the columns {', '.join(sorted(twice))}; "
            "shape one process, outcome and format signal at a time"
        )
    return pa.schema(columns)


def schema_for(stage: str, names: Sequence[str], *, unknown: Sequence[str] = ()) -> pa.Schema:
    """The contract's columns for a part of a stage that has these column names; further columns are not in it.

    unknown: columns that may be null, for an import does not know them (`DatasetSpec.unknown_columns`).
    """
    known = _schema_for(stage, names)
    return pa.schema([field.with_nullable(True) if field.name in unknown else field for field in known])


def _schema_for(stage: str, names: Sequence[str]) -> pa.Schema:
    if stage == "prompts":
        return PROMPTS
    statistics = [column for column in TOKEN_STATISTICS if column.name in names]
    if stage == "generate":
        return pa.schema([*ROLLOUTS, *statistics])
    if stage == "score":
        return signal_schema(signal_kind(names))
    known = {field.name: field for kind in SIGNAL_KINDS[:4] for field in _KIND_COLUMNS[kind]}
    optional = [*statistics, *(known[name] for name in names if name in known)]
    for name in names:
        if name.startswith("status_"):
            optional.append(_always(name, pa.string()))
        elif name.startswith("detail_"):
            optional.append(pa.field(name, pa.string()))
        elif name.endswith("_logprobs") and name != "behavior_logprobs":
            optional.append(pa.field(name, FLOAT_LIST))
    return pa.schema([*ROLLOUTS, *optional, *CHUNK_FIELDS, *_ORIGIN_FIELDS])


def conform(table: pa.Table, stage: str, *, unknown: Sequence[str] = ()) -> pa.Table:
    """The table with the contract's types and nullability for its stage, in one chunk, without foreign metadata.

    Lossless: names of list elements and missing "not null" marks are mended, everything else is refused. Columns
    beyond the contract's stay as they are. Order of columns is kept. unknown: as for `schema_for`. Raises PartError.
    """
    names = table.column_names
    schema = {field.name: field for field in schema_for(stage, names, unknown=unknown)}
    missing = [name for name in schema if name not in names]
    if missing or len(set(names)) != len(names):
        fault = f"lacks {', '.join(missing)}" if missing else "names a column twice"
        raise PartError(f"a part of stage {stage} {fault}; it has {', '.join(names)}. Nothing was committed")
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        wanted = schema[field.name] if field.name in schema else field.with_metadata(None)
        columns.append(_conform_column(column, wanted, stage))
        fields.append(wanted)
    return pa.table(columns, schema=pa.schema(fields)).combine_chunks()


def _conform_column(column: pa.ChunkedArray, wanted: pa.Field, stage: str) -> pa.ChunkedArray:
    where = f"column {wanted.name} of a part of stage {stage}"
    if not wanted.nullable and column.null_count:
        raise PartError(
            f"{where} has {column.null_count} nulls, the first at row {_first_null(column)}; it may have none. "
            "Nothing was committed"
        )
    if column.type == wanted.type:
        return column
    if not _same_but_marks(column.type, wanted.type):
        raise PartError(f"{where} is {column.type}, not {wanted.type}; cast it. Nothing was committed")
    for chunk in column.chunks:
        values = chunk.flatten()
        inside = [values, *values.flatten()] if pa.types.is_struct(values.type) else [values]
        if nulls := sum(array.null_count for array in inside):
            raise PartError(f"{where} has {nulls} nulls inside its lists; it may have none. Nothing was committed")
    return column.cast(wanted.type)


def _same_but_marks(one: pa.DataType, other: pa.DataType) -> bool:
    """Equal up to names of list elements and nullability."""
    if pa.types.is_list(one) and pa.types.is_list(other):
        return _same_but_marks(one.value_type, other.value_type)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        if [field.name for field in one] != [field.name for field in other]:
            return False
        return all(_same_but_marks(a.type, b.type) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _first_null(column: pa.ChunkedArray) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy())[0])


def row_group_cuts(bounds_G: np.ndarray, rows: int) -> list[tuple[int, int]]:
    """Row ranges of at least `rows` rows each, cut only where a group begins; the last may be shorter."""
    cuts = [0]
    for bound in bounds_G.tolist():
        if bound - cuts[-1] >= rows:
            cuts.append(bound)
    if cuts[-1] != int(bounds_G[-1]):
        cuts.append(int(bounds_G[-1]))
    return list(pairwise(cuts))
