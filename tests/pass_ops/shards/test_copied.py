"""Columns that are the same bytes are equal; what verify then does not decode would have given no finding."""

from __future__ import annotations

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verifying import smuggle

from pass_ops.shards import (
    ROLLOUTS,
    CompleteDataset,
    DatasetSpec,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    verify,
)
from pass_ops.shards.copied import same_pages
from pass_ops.shards.encoding import encoded
from pass_ops.shards.footer import I64, STRUCT, read_footer, write_footer
from pass_ops.shards.schemas import CHUNK_FIELDS
from pass_ops.shards.tables import part_bytes
from pass_ops.shards.unique import GroupsOfParts

VERIFY = sys.modules["pass_ops.shards.verify"]


def opened(content: bytes) -> tuple[pq.ParquetFile, pa.Buffer]:
    return pq.ParquetFile(io.BytesIO(content)), pa.py_buffer(content)


def same(names: list[str], one: bytes, other: bytes) -> bool:
    return same_pages(names, *opened(one), *opened(other))


TABLE = pa.table(
    {
        "answer": ["a", None, "a", "b"],
        "token_ids": pa.array([[1, 2], [], [3], [1]], pa.list_(pa.int32())),
        "loss_mask": pa.array([[True, False], [], [True], [False]]),
        "seed": [1, 2, 3, 4],
        "nested": [[{"role": "x"}], [], None, [{"role": "y"}]],
    }
)
CUTS = [(0, 2), (2, 4)]


def file_of(table: pa.Table, cuts=CUTS) -> bytes:
    return encoded(table, cuts, stage="generate", format_version=2)


@pytest.mark.parametrize("name", TABLE.column_names)
def test_a_column_beside_others_is_the_same_and_a_changed_one_is_not(name):
    moved = TABLE.select([*reversed(TABLE.column_names)]).add_column(0, "first", pa.array([5, 6, 7, 8]))
    assert same([name], file_of(TABLE), file_of(moved))
    changed = TABLE[name].take(pa.array([0, 1, 3, 2]))
    assert not same([name], file_of(TABLE), file_of(moved.set_column(moved.column_names.index(name), name, changed)))


@pytest.mark.parametrize(
    "other",
    [
        file_of(TABLE, [(0, 4)]),
        file_of(TABLE.drop_columns("seed")),
        file_of(pa.table([*TABLE.columns, TABLE["seed"]], [*TABLE.column_names, "seed"])),
        file_of(TABLE.set_column(3, "seed", TABLE["seed"].cast(pa.timestamp("us")))),
        file_of(TABLE.set_column(3, pa.field("seed", pa.int64(), nullable=False), TABLE["seed"])),
    ],
    ids=["row groups", "absent", "twice", "type", "nullability"],
)
def test_nothing_is_said_of_other_row_groups_columns_and_types(other):
    assert same(["seed"], file_of(TABLE), file_of(TABLE))
    assert not same(["seed"], file_of(TABLE), other)
    assert not same(["seed"], other, file_of(TABLE))


def test_nothing_is_said_of_equal_values_that_are_compressed_in_another_way():
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, compression="snappy", row_group_size=2)
    assert not same(["seed"], file_of(TABLE), sink.getvalue())


columns = st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=3)), min_size=4, max_size=4)


@given(columns, columns)
def test_columns_of_the_same_pages_are_equal(one, other):
    tables = [pa.table({"x": pa.array(values, pa.list_(pa.int32()))}) for values in (one, other)]
    found = same(["x"], *(file_of(table) for table in tables))
    assert found == (one == other)


SHAPED = {"chunk_ends": [[3], [2]], "chunk_credits": [[0.5], [0.0]], "chunk_advantages": [[0.5], [0.0]],
          "path_score": [0.75, None], "trainable": [True, False]}  # fmt: skip


def shaped(table: pa.Table) -> pa.Table:
    for field in CHUNK_FIELDS:
        table = table.append_column(field, pa.array(SHAPED[field.name], field.type))
    table = table.append_column(pa.field("policy_digest", pa.string(), nullable=False), pa.array(["d" * 64] * 2))
    return table.append_column(pa.field("round", pa.int32(), nullable=False), pa.array([0, 0], pa.int32()))


def shape(url: str, made: CompleteDataset, table: pa.Table) -> str:
    inputs = {"rollouts": made.ref(url)}
    spec = DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, inputs=inputs, carried=made.spec.carried)
    ds = create_dataset(url, spec)
    commit_part(ds, 0, table)
    finalize(ds)
    return url


SPOILED = {
    "sound": {},
    "group_id": {"group_id": ["b", "b"], "rollout_id": ["b/0", "b/1"]},
    "sample_index": {"sample_index": [0, 2], "rollout_id": ["a/0", "a/2"]},
    "prompt_token_ids": {"prompt_token_ids": [[1], [1, 2]]},
    "token_ids": {"token_ids": [[5, 6, 8], [5, 6]]},
    "text": {"text": ["x", "y"]},
    "behavior_logprobs": {"behavior_logprobs": [[-0.5, 0.0, -1.0], [-0.5, 0.0]]},
    "not a number": {"behavior_logprobs": [[np.nan, 0.0, -1.0], [-0.5, 0.0]]},
    "masked values": {"behavior_logprobs": [[-0.5, -0.5, -1.5], [-0.5, 0.0]]},
    "loss_mask": {"loss_mask": [[True, True, True], [True, False]]},
    "lengths": {"loss_mask": [[True, False], [True, False]]},
    "finish_reason": {"finish_reason": ["length", "stop"]},
    "seed": {"seed": [0, 11]},
    "answer": {"answer": ["1", None]},
}


@pytest.mark.parametrize("changes", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("both", [False, True], ids=["shaped", "and its rollouts"])
def test_verify_finds_what_it_finds_by_decoding_both(tmp_path, make_dataset, rollouts, monkeypatch, changes, both):
    """Also where the rollouts are spoiled in the same way, so that the bytes are the same and the values are wrong."""
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    spoiled = rollouts("a", **changes)
    if both:
        smuggle(made.url, 0, part_bytes(spoiled, "generate"))
        made = open_dataset(made.url)
    url = shape(str(tmp_path / "shaped"), made, shaped(rollouts("a")))
    smuggle(url, 0, part_bytes(shaped(spoiled), "shape"))
    found = verify(url)
    assert both or bool(found) == bool(changes)
    monkeypatch.setattr(VERIFY, "same_pages", lambda *_: False)
    assert verify(url) == found


def with_dictionary_at_zero(content: bytes, column: bytes) -> bytes:
    """The file with a footer that names the dictionary page of a column at 0, where old writers meant that none is."""
    footer = read_footer(memoryview(content))
    for group in footer[4][1].values:
        for chunk in group[1][1].values:
            metadata = chunk[3][1]
            if metadata[3][1].values[0] == column:
                metadata[11] = (I64, 0)
                chunk[3] = (STRUCT, dict(sorted(metadata.items())))
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return content[:end] + write_footer(footer)


def test_pages_that_a_footer_does_not_place_are_not_taken_for_the_same(tmp_path, make_dataset, rollouts):
    """Readers take a dictionary at 0 for none; the bytes from 0 to where it would end are not the values."""
    right, wrong = rollouts("a"), rollouts("a", token_ids=[[5, 6, 8], [5, 6]])
    made = make_dataset(str(tmp_path / "rollouts"), right)
    smuggle(made.url, 0, with_dictionary_at_zero(part_bytes(right, "generate"), b"token_ids"))
    url = shape(str(tmp_path / "shaped"), open_dataset(made.url), shaped(right))
    smuggle(url, 0, with_dictionary_at_zero(part_bytes(shaped(wrong), "shape"), b"token_ids"))
    assert "column token_ids is not that of its rollouts" in [finding.message for finding in verify(url)]


def test_a_rollouts_part_of_another_stage_is_told_beside_what_was_made_from_it(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    smuggle(made.url, 0, encoded(rollouts("a"), [(0, 2)], stage="score", format_version=2))
    url = shape(str(tmp_path / "shaped"), open_dataset(made.url), shaped(rollouts("a")))
    assert [finding.code for finding in verify(url) if "its metadata has stage b'score'" in finding.message] == [
        "alignment"
    ]


def test_of_a_sound_shaped_part_the_rollouts_are_not_decoded(tmp_path, make_dataset, rollouts, monkeypatch):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    url = shape(str(tmp_path / "shaped"), made, shaped(rollouts("a")))
    read, plain = [], VERIFY.read_columns
    monkeypatch.setattr(VERIFY, "read_columns", lambda file, columns=None: read.append(columns) or plain(file, columns))
    assert verify(url) == []
    assert read == [None]
    monkeypatch.setattr(VERIFY, "same_pages", lambda *_: False)
    assert verify(url) == []
    assert read == [None, None, ROLLOUTS.names]


def test_groups_of_one_hash_are_told_apart_by_their_names(monkeypatch):
    monkeypatch.setattr("pass_ops.shards.unique.hash", len, raising=False)
    parts = {0: ["a", "bb"], 2: ["c"], 3: ["ddd", "a", "bb"], 4: ["eeee"]}
    groups, asked = GroupsOfParts(), []
    for part, names in parts.items():
        groups.add(part, pa.chunked_array([names]))

    def names_of(part):
        asked.append(part)
        return pa.chunked_array([parts[part] * 2])

    assert list(groups.twice(names_of)) == [(3, "a", 0), (3, "bb", 0)]
    assert asked == [0, 2, 3]
    assert list(GroupsOfParts().twice(names_of)) == []


@given(st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=3), max_size=6))
def test_groups_in_two_parts_are_those_that_a_dictionary_finds(parts):
    groups = GroupsOfParts()
    for part, names in enumerate(parts):
        groups.add(part, pa.chunked_array([names], pa.string()))
    first: dict[str, int] = {}
    expected = [
        (part, name, first[name])
        for part, names in enumerate(parts)
        for name in dict.fromkeys(names)
        if first.setdefault(name, part) != part
    ]
    assert list(groups.twice(lambda part: pa.chunked_array([parts[part]], pa.string()))) == expected
