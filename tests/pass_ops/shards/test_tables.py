from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_ops.errors import PartError
from pass_ops.shards import ROLLOUTS, shaped_schema, signal_schema
from pass_ops.shards.schemas import conform, row_group_cuts
from pass_ops.shards.tables import count_table, group_keys, open_parquet, part_bytes, plain_bytes


def _many(groups: int, size: int) -> pa.Table:
    ids = [f"g{group}" for group in range(groups) for _ in range(size)]
    index = [row for _ in range(groups) for row in range(size)]
    rng = np.random.default_rng(0)
    lengths_N = rng.integers(0, 9, len(ids))
    ends = np.concatenate(([0], np.cumsum(lengths_N))).astype(np.int32)
    total = int(ends[-1])

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(ends), values)

    return pa.table(
        {
            "group_id": ids,
            "sample_index": pa.array(index, pa.int32()),
            "rollout_id": [f"{group}/{row}" for group, row in zip(ids, index, strict=True)],
            "prompt_token_ids": lists(pa.array(rng.integers(0, 100, total), pa.int32())),
            "token_ids": lists(pa.array(rng.integers(0, 100, total), pa.int32())),
            "text": ids,
            "behavior_logprobs": lists(pa.array(-rng.random(total), pa.float32())),
            "loss_mask": lists(pa.array(np.ones(total, bool))),
            "finish_reason": ["stop"] * len(ids),
            "seed": pa.array(rng.integers(0, 2**62, len(ids))),
            "answer": pa.array([None] * len(ids), pa.string()),
        }
    )


def _row_groups(content: bytes) -> list[int]:
    file = open_parquet(content)
    return [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]


def test_the_bytes_are_the_same_however_the_table_was_chunked_or_sliced():
    table = _many(300, 7)
    whole = part_bytes(conform(table, "generate"), "generate")
    chunked = pa.concat_tables([table.slice(0, 1000), table.slice(1000, 1), table.slice(1001)])
    sliced = pa.concat_tables([table.slice(0, 13), table]).slice(13)
    for other in (chunked, sliced, table.replace_schema_metadata({"pandas": "x"})):
        assert part_bytes(conform(other, "generate"), "generate") == whole
    back = open_parquet(whole).read()
    assert part_bytes(conform(back, "generate"), "generate") == whole
    assert back.equals(conform(table, "generate"))


def test_row_groups_hold_about_a_thousand_rows_and_whole_groups():
    content = part_bytes(conform(_many(300, 7), "generate"), "generate")
    assert _row_groups(content) == [1029, 1029, 42]  # 147 groups of 7: the first bound at or after 1,024 rows


def test_a_signal_gets_the_row_groups_of_its_rollouts():
    rollouts = _many(200, 11)
    signal = pa.table(
        {
            "rollout_id": rollouts["rollout_id"],
            "status": ["ok"] * rollouts.num_rows,
            "detail": pa.array([None] * rollouts.num_rows, pa.string()),
            "format_reward": pa.array(np.ones(rollouts.num_rows), pa.float32()),
            "format_ok": [True] * rollouts.num_rows,
        }
    )
    signal_bytes = part_bytes(conform(signal, "score"), "score")
    assert _row_groups(signal_bytes) == _row_groups(part_bytes(conform(rollouts, "generate"), "generate"))


@given(sizes=st.lists(st.integers(1, 40), max_size=60), rows=st.integers(1, 50))
@settings(deadline=None, database=None)
def test_cuts_cover_all_rows_and_never_split_a_group(sizes, rows):
    bounds = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    cuts = row_group_cuts(bounds, rows)
    assert [stop for _, stop in cuts[:-1]] == [start for start, _ in cuts[1:]]
    assert ([cuts[0][0], cuts[-1][1]] if cuts else [0, 0]) == [0, int(bounds[-1])]
    assert all(start in bounds for start, _ in cuts)
    assert all(stop - start >= rows for start, stop in cuts[:-1])


def test_a_row_group_is_cut_at_the_first_group_that_makes_it_large_enough():
    assert row_group_cuts(np.array([0, 4, 8, 12, 13]), 4) == [(0, 4), (4, 8), (8, 12), (12, 13)]
    assert row_group_cuts(np.array([0, 3, 6, 9]), 4) == [(0, 6), (6, 9)]


def test_a_part_says_its_stage_and_format_and_stores_floats_and_ids_split():
    file = open_parquet(part_bytes(conform(_many(3, 2), "generate"), "generate"))
    assert file.schema_arrow.metadata == {b"format_version": b"2", b"stage": b"generate"}
    group = file.metadata.row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    for name in ("token_ids", "behavior_logprobs", "prompt_token_ids"):
        column = columns[f"{name}.list.element"]
        assert "BYTE_STREAM_SPLIT" in column.encodings
        assert not column.has_dictionary_page
        assert column.statistics is None
        assert column.compression == "ZSTD"
    assert columns["group_id"].has_dictionary_page
    assert not columns["rollout_id"].has_dictionary_page


def test_how_each_kind_of_column_is_compressed(monkeypatch):
    given, writer = [], pq.ParquetWriter
    monkeypatch.setattr(pq, "ParquetWriter", lambda *where, **how: given.append(how) or writer(*where, **how))
    table = shaped_schema({"prm": "process_steps"}).empty_table()
    part_bytes(conform(table, "shape"), "shape")
    [how] = given
    ids = ["prompt_token_ids", "token_ids", "process_ends", "chunk_ends"]
    floats = ["behavior_logprobs", "process_scores", "chunk_credits", "chunk_advantages"]
    encoding = dict.fromkeys([*ids[:2], *floats], "BYTE_STREAM_SPLIT") | dict.fromkeys(ids[2:], "DELTA_BINARY_PACKED")
    lists = {"prompt_token_ids", "token_ids", "loss_mask", *floats, *ids}
    assert how == {
        "compression": "zstd",
        "compression_level": {**{f"{name}.list.element": 3 for name in ids}, "text": 3},
        "use_dictionary": [
            name
            for name in table.column_names
            if table.schema.field(name).type == pa.string() and name not in ("text", "rollout_id")
        ],
        "write_statistics": [name for name in table.column_names if name not in {*lists, "text"}],
        "column_encoding": {f"{name}.list.element": kind for name, kind in encoding.items()},
        "version": "2.6",
        "write_page_checksum": True,
    }


@pytest.mark.parametrize(("rows", "row_groups"), [(0, 0), (1, 1), (2**20 + 1, 1)])
def test_any_other_table_is_one_row_group(rows, row_groups):
    content = plain_bytes(pa.table({"a": np.zeros(rows, np.int8)}), "generate")
    file = open_parquet(content)
    assert (file.num_row_groups, file.metadata.num_rows) == (row_groups, rows)
    assert file.schema_arrow.metadata == {b"format_version": b"2", b"stage": b"generate"}


def test_the_group_of_a_row_is_its_group_id_or_what_stands_before_the_slash():
    assert group_keys(pa.table({"rollout_id": ["a%2Fb/0", "a%2Fb/11"]})).to_pylist() == ["a%2Fb"] * 2
    assert group_keys(pa.table({"group_id": ["x"], "rollout_id": ["y/0"]})).to_pylist() == ["x"]
    assert group_keys(pa.table({"prompt_id": ["p"]})).to_pylist() == ["p"]


@pytest.mark.parametrize(
    ("columns", "tokens"),
    [
        ({"logprobs": [[0.1, 0.2], None]}, 2),
        ({"process_scores": [[0.1, 0.2], [0.3]]}, 3),
        ({"process_scores": [[0.1], [0.3]], "process_ends": [[5], [4]]}, 0),
    ],
)
def test_tokens_are_counted_in_columns_with_one_value_a_token(columns, tokens):
    counted = count_table(pa.table({"rollout_id": ["a/0", "b/0"], **columns}))
    assert counted == {"rows": 2, "groups": 2, "tokens": tokens, "groups_by_size": {"1": 2}}


def test_lists_without_not_null_marks_are_conformed_without_loss(rollouts):
    loose = pa.table(
        {name: pa.array(column.to_pylist()) for name, column in zip(ROLLOUTS.names, rollouts("a").columns, strict=True)}
    )
    loose = loose.set_column(1, "sample_index", loose["sample_index"].cast(pa.int32()))
    for name, kind in (
        ("prompt_token_ids", pa.int32()),
        ("token_ids", pa.int32()),
        ("behavior_logprobs", pa.float32()),
    ):
        loose = loose.set_column(loose.column_names.index(name), name, loose[name].cast(pa.list_(kind)))
    loose = loose.set_column(10, "answer", loose["answer"].cast(pa.string()))
    assert conform(loose, "generate").schema.equals(ROLLOUTS)
    assert conform(loose, "generate").equals(rollouts("a"))


def _with(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, array)


def test_messages_and_prompts_are_conformed_and_nulls_inside_messages_refused():
    def prompts(content: str | None) -> pa.Table:
        return pa.table(
            {
                "prompt_id": ["a"],
                "prompt": pa.array([None], pa.string()),
                "messages": [[{"role": "user", "content": content}]],
                "answer": pa.array([None], pa.string()),
                "source": ["s"],
                "extra": pa.array([None], pa.string()),
            }
        )

    table = conform(prompts("hello"), "prompts")
    assert table["messages"].to_pylist() == [[{"role": "user", "content": "hello"}]]
    assert pq.ParquetFile(pa.BufferReader(part_bytes(table, "prompts"))).read().equals(table)


def test_the_shaped_schema_carries_every_signal_with_its_status():
    schema = shaped_schema(
        {"prm": "process_steps", "verifier": "outcome", "base": "logprobs", "ref": "logprobs"}, reference="ref"
    )
    added = schema.names[len(ROLLOUTS) :]
    assert added == [
        "process_scores",
        "process_ends",
        "status_prm",
        "detail_prm",
        "outcome_reward",
        "verify_status",
        "extracted_answer",
        "status_verifier",
        "detail_verifier",
        "base_logprobs",
        "status_base",
        "detail_base",
        "reference_logprobs",
        "status_ref",
        "detail_ref",
        "chunk_ends",
        "chunk_credits",
        "chunk_advantages",
        "path_score",
        "trainable",
        "policy_digest",
        "round",
    ]
    with pytest.raises(PartError, match="process_scores"):
        shaped_schema({"a": "process_steps", "b": "process_tokens"})


def test_the_signal_schemas_are_the_contracts():
    head = [("rollout_id", "string", False), ("status", "string", False), ("detail", "string", True)]
    floats, ints = "list<element: float not null>", "list<element: int32 not null>"
    expected = {
        "outcome": [
            ("outcome_reward", "float", True),
            ("verify_status", "string", False),
            ("extracted_answer", "string", True),
        ],
        "format": [("format_reward", "float", True), ("format_ok", "bool", True)],
        "process_steps": [("process_scores", floats, True), ("process_ends", ints, True)],
        "process_tokens": [("process_scores", floats, True)],
        "logprobs": [("logprobs", floats, True)],
    }
    for kind, columns in expected.items():
        assert [(field.name, str(field.type), field.nullable) for field in signal_schema(kind)] == head + columns
    with pytest.raises(PartError, match="outcome, format, process_steps, process_tokens, logprobs"):
        signal_schema("process")
