"""A table that is not of its stage is refused before anything is written, word for word; nothing is cast with loss."""

from __future__ import annotations

import pyarrow as pa
import pytest
from verifying import said

from pass_ops.errors import PartError
from pass_ops.shards import PROMPTS, shaped_schema, signal_schema
from pass_ops.shards.schemas import conform

INTS, LONGS = pa.list_(pa.int32()), pa.list_(pa.int64())


def _with(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, array)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda t: t.select(["group_id", "text"]),
            "a part of stage generate lacks sample_index, rollout_id, prompt_token_ids, token_ids, behavior_logprobs, "
            "loss_mask, finish_reason, seed, answer; it has group_id, text",
        ),
        (
            lambda t: t.append_column("seed", t["seed"]),
            "a part of stage generate names a column twice; it has group_id, sample_index, rollout_id, "
            "prompt_token_ids, token_ids, text, behavior_logprobs, loss_mask, finish_reason, seed, answer, seed",
        ),
        (
            lambda t: _with(t, "seed", pa.array([1.0, 2.0])),
            "column seed of a part of stage generate is double, not int64; cast it",
        ),
        (
            lambda t: _with(t, "text", pa.array(["x", None])),
            "column text of a part of stage generate has 1 nulls, the first at row 1; it may have none",
        ),
        (
            lambda t: _with(t, "token_ids", pa.array([[1, None], [2]], INTS)),
            "column token_ids of a part of stage generate has 1 nulls inside its lists; it may have none",
        ),
        (
            lambda t: _with(t, "token_ids", pa.array([[1, 2], [2]], LONGS)),
            "column token_ids of a part of stage generate is list<item: int64>, not list<element: int32 not null>; "
            "cast it",
        ),
        (
            lambda t: _with(t, "token_ids", pa.array([1, 2], pa.int32())),
            "column token_ids of a part of stage generate is int32, not list<element: int32 not null>; cast it",
        ),
        (
            lambda t: _with(t, "text", pa.array([["x"], ["y"]])),
            "column text of a part of stage generate is list<item: string>, not string; cast it",
        ),
    ],
)
def test_rollouts_that_are_none(rollouts, spoil, says):
    assert said(PartError, lambda: conform(spoil(rollouts("a")), "generate")) == f"{says}. Nothing was committed"


def test_a_shaped_part_gets_the_marks_of_its_signals_and_keeps_other_columns():
    schema = shaped_schema({"prm": "process_steps", "verifier": "outcome", "base": "logprobs"})
    loose = pa.schema([pa.field(field.name, field.type) for field in schema] + [("logprobs", pa.int64())])
    made = conform(loose.empty_table(), "shape").schema
    assert made.equals(schema.append(pa.field("logprobs", pa.int64())))
    wrong = loose.set(loose.get_field_index("detail_prm"), pa.field("detail_prm", pa.int64()))
    assert said(PartError, lambda: conform(wrong.empty_table(), "shape")) == (
        "column detail_prm of a part of stage shape is int64, not string; cast it. Nothing was committed"
    )
    wrong = loose.set(loose.get_field_index("base_logprobs"), pa.field("base_logprobs", pa.list_(pa.float64())))
    assert said(PartError, lambda: conform(wrong.empty_table(), "shape")) == (
        "column base_logprobs of a part of stage shape is list<item: double>, not list<element: float not null>; "
        "cast it. Nothing was committed"
    )


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "user", "content": None}], "has 1 nulls inside its lists; it may have none"),
        ([None], "has 3 nulls inside its lists; it may have none"),
        (["user: x"], "is list<item: string>, not {}; cast it"),
        ([{"role": "user"}], "is list<item: struct<role: string>>, not {}; cast it"),
        ([{"role": "user", "text": "x"}], "is list<item: struct<role: string, text: string>>, not {}; cast it"),
        ([{"role": "user", "content": 1}], "is list<item: struct<role: string, content: int64>>, not {}; cast it"),
        ([{"content": "x", "role": "u"}], "is list<item: struct<content: string, role: string>>, not {}; cast it"),
    ],
)
def test_messages_that_are_none(messages, says):
    text = pa.struct([("role", pa.string()), ("content", pa.string())])
    given = pa.array([messages], pa.list_(text) if "nulls" in says else None)
    empty = {name: pa.array([None], pa.string()) for name in ("prompt", "answer", "extra")}
    columns = {"prompt_id": pa.array(["a"]), "source": pa.array(["s"]), "messages": given, **empty}
    table = pa.table({name: columns[name] for name in PROMPTS.names})
    wanted = "list<element: struct<role: string not null, content: string not null> not null>"
    assert said(PartError, lambda: conform(table, "prompts")) == (
        f"column messages of a part of stage prompts {says.format(wanted)}. Nothing was committed"
    )


def test_a_signal_of_no_kind():
    assert said(PartError, lambda: signal_schema("process")) == (
        "signal kind is 'process'; it is one of outcome, format, process_steps, process_tokens, logprobs"
    )


@pytest.mark.parametrize(
    ("signals", "columns"),
    [
        ({"a": "process_steps", "b": "process_tokens"}, "process_scores"),
        ({"a": "process_steps", "b": "process_steps"}, "process_ends, process_scores"),
        ({"a": "format", "b": "format"}, "format_ok, format_reward"),
    ],
)
def test_two_signals_of_the_same_columns(signals, columns):
    assert said(PartError, lambda: shaped_schema(signals)) == (
        f"two signals give the columns {columns}; shape one process, outcome and format signal at a time"
    )
