"""What an estimator of one's own reads beyond the streams: any column of the table, by name, only where asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from pass_ops.errors import MissingColumnError
from pass_ops.group import Group

ONLY_OUTCOME = Weights(process=0.0, outcome=1.0, format=0.0)
OWN = """
import numpy as np

def scaled_by_teacher(group, config):
    '''outcome * exp(teacher - behaviour), token by token; 0 where the teacher's row is null.'''
    rows = zip(group.outcome, group.behavior_logprobs, group.logprobs("teacher"), group.mask)
    return [
        np.zeros(len(mask)) if teacher is None else reward * np.exp(np.float64(teacher) - behaviour)
        for reward, behaviour, teacher, mask in rows
    ]

def ids(group, config):
    return [tokens.astype(float) for tokens in group.tokens]

def unknown(group, config):
    return [np.zeros(len(mask)) for mask in group.mask] if group.column("teacher_logprob") else []
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "reading_estimators.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("reading_estimators")
    del sys.modules["reading_estimators"]


def table(groups: int = 2) -> pa.Table:
    """Groups of three rollouts with 1 to 3 tokens; the second rollout of each lacks its reward."""
    rows = range(3 * groups)
    return pa.table(
        {
            "group_id": [f"g{row // 3}" for row in rows],
            "loss_mask": [[True] * (1 + row % 3) for row in rows],
            "outcome_reward": pa.array([None if row % 3 == 1 else float(row) for row in rows], pa.float32()),
            "token_ids": pa.array([[10 * row + t for t in range(1 + row % 3)] for row in rows], pa.list_(pa.int32())),
            "behavior_logprobs": pa.array([[-1.0] * (1 + row % 3) for row in rows], pa.list_(pa.float32())),
            "teacher_logprobs": pa.array(
                [None if row % 3 == 2 else [-0.5 * t for t in range(1 + row % 3)] for row in rows],
                pa.list_(pa.float32()),
            ),
            "answer": [f"a{row}" for row in rows],
            "level": [row * row for row in rows],
            "state": [["s"] * (1 + row % 3) for row in rows],
        }
    )


def config(name: str) -> ShapingConfig:
    return ShapingConfig(estimator=f"reading_estimators:{name}", weights=ONLY_OUTCOME)


@pytest.mark.usefixtures("own")
class TestShaping:
    def test_stored_logprobs_by_hand(self) -> None:
        found = token_advantages(shape(table(), config("scaled_by_teacher"))).to_pylist()
        e = float(np.float32(np.e))
        assert found[0] == [0.0]  # its reward is 0
        assert found[3] == pytest.approx([3.0 * e])
        assert found[1] == [0.0, 0.0]  # not in the group: its reward is null
        assert found[2] == [0.0, 0.0, 0.0]  # the teacher's row is null

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_each_rollout_meets_its_own_row(self, monkeypatch: pytest.MonkeyPatch, threads: int, chunked: bool) -> None:
        monkeypatch.setattr("pass_ops.shaping.LEAST_SPAN_VALUES", 1)
        rows = table(40)
        if chunked:
            rows = pa.concat_tables([rows.slice(0, 7), rows.slice(7, 50), rows.slice(57)])
        found = token_advantages(shape(rows, config("ids"), threads=threads)).to_pylist()
        expected = [
            [0.0] * len(ids) if row % 3 == 1 else [float(i) for i in ids]
            for row, ids in enumerate(table(40)["token_ids"].to_pylist())
        ]
        assert found == expected

    def test_a_column_that_is_not_there_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(MissingColumnError, match=r"reads the column 'teacher_logprob'.*'teacher_logprobs'\?") as e:
            shape(table(), config("unknown"))
        assert "reading_estimators:unknown" in e.value.__notes__[0]


def group_of(rows: pa.Table, *places: int) -> Group:
    nothing = tuple(np.zeros(0) for _ in places)
    return Group(
        group_id="g", mask=nothing, scores=nothing, ends=nothing, live=nothing, outcome=np.zeros(len(places)),
        format=np.zeros(len(places)), table=rows, rows=places,
    )  # fmt: skip


class TestColumn:
    def test_types(self) -> None:
        group = group_of(table(), 3, 5)
        assert [ids.tolist() for ids in group.tokens] == [[30], [50, 51, 52]]
        assert {ids.dtype for ids in group.tokens} == {np.dtype(np.int32)}
        first, second = group.logprobs("teacher")
        assert (first.tolist(), second) == ([0.0], None)
        assert first.dtype == np.float32
        assert group.answers == ("a3", "a5")
        named = table().rename_columns({"teacher_logprobs": "entropy", "behavior_logprobs": "sum_pi_squared"})
        assert group_of(named, 3).entropy[0].tolist() == [0.0]
        assert group_of(named, 3).sum_pi_squared[0].tolist() == [-1.0]
        assert group.column("level") == (9, 25)
        assert group.column("state") == (["s"], ["s", "s", "s"])
        assert [mask.tolist() for mask in group.column("loss_mask")] == [[True], [True] * 3]

    def test_only_what_is_asked_for_is_read(self) -> None:
        class Reading:
            def __init__(self) -> None:
                self.table, self.read = table(), []

            schema = table().schema

            def column(self, place: int) -> pa.ChunkedArray:
                self.read.append(self.schema.names[place])
                return self.table.column(place)

        reading = Reading()
        group = group_of(reading, 0)
        assert reading.read == []
        group.column("level")
        group.tokens  # noqa: B018
        assert reading.read == ["level", "token_ids"]

    def test_names_that_are_there_twice_or_without_a_table(self) -> None:
        twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
        with pytest.raises(MissingColumnError, match="the table has it 2 times; keep one of them"):
            group_of(twice, 0).column("x")
        with pytest.raises(MissingColumnError, match="does not have it"):
            Group(group_id="g", mask=(), scores=(), ends=(), live=(), outcome=np.zeros(0), format=np.zeros(0)).column(
                "x"
            )
