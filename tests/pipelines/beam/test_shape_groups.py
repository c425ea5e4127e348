"""Groups in a PCollection are shaped as `pass_ops.shape` shapes them; bad ones are named and cost nobody else."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Stream, Weights, shape
from pass_ops.errors import OptionError
from pass_ops.shards import Rejection
from pipelines.beam import ShapeGroups
from pipelines.beam.tables import fitted
from pipelines.runners.quiet import beam
from tests.pipelines.beam.running import ran, rollout, rollouts

CONFIG = ShapingConfig(k=0.7)
GROUPS = [f"q{number}" for number in range(12)]


def shaped_here(rows: list[dict], config: ShapingConfig = CONFIG, *, types_kept: bool = False) -> dict[str, dict]:
    """rollout_id -> its row, by `pass_ops.shape` on one table of all rows in their order."""
    from pass_ops.shards.schemas import schema_for

    table = pa.Table.from_pylist(rows)
    if not types_kept:
        table = fitted(table, schema_for("shape", table.column_names))
    return {row["rollout_id"]: row for row in shape(table, config).to_pylist()}


def rows_of(tables: list[pa.Table]) -> dict[str, dict]:
    found = [row for table in tables for row in table.to_pylist()]
    assert len({row["rollout_id"] for row in found}) == len(found)
    return {row["rollout_id"]: row for row in found}


def shuffled(elements: list, seed: int = 7) -> list:
    return random.Random(seed).sample(elements, len(elements))


def shape_them(given: list, tmp_path, config: ShapingConfig = CONFIG, **options) -> dict[str, list]:
    def construct(pipeline):
        found = pipeline | beam.Create(given) | ShapeGroups(config, **options)
        return {"shaped": found.shaped, "rejected": found.rejected}

    return ran(construct, tmp_path)


def as_batches(rows: list[dict]) -> list[pa.RecordBatch]:
    """Rows in batches of seven: groups lie across them."""
    table = pa.Table.from_pylist(rows)
    return table.to_batches(max_chunksize=7)


@pytest.mark.parametrize("form", ["rows", "keyed rows", "keyed without the column", "beam rows", "batches", "mixed"])
def test_rows_in_any_form_and_order_are_shaped_to_the_bit(form, tmp_path):
    rows = rollouts(*GROUPS)
    if form == "rows":
        elements = rows
    elif form == "keyed rows":
        elements = [(row["group_id"], row) for row in rows]
    elif form == "keyed without the column":
        elements = [(row["group_id"], {name: row[name] for name in row if name != "group_id"}) for row in rows]
    elif form == "beam rows":
        elements = [beam.Row(**row) for row in rows]
    elif form == "batches":
        elements = as_batches(shuffled(rows))
    else:
        elements = [*rows[:20], *as_batches(rows[20:])]
    found = shape_them(shuffled(elements), tmp_path)
    assert found["rejected"] == []
    assert rows_of(found["shaped"]) == shaped_here(rows)
    assert {len(table["group_id"].unique()) for table in found["shaped"]} == {1}
    assert len({table.schema for table in found["shaped"]}) == 1 or form == "mixed"


@pytest.mark.parametrize(
    "config",
    [
        ShapingConfig(estimator="grpo_outcome", weights=Weights(process=0.0, outcome=1.0, format=0.0)),
        ShapingConfig(streams={"outcome": Stream(signal="outcome", weight=1.0, pool="right")}),
    ],
    ids=["grpo_outcome", "streams"],
)
def test_every_way_of_shaping_is_the_same(config, tmp_path):
    rows = rollouts(*GROUPS)
    assert rows_of(shape_them(shuffled(rows), tmp_path, config)["shaped"]) == shaped_here(rows, config)


def test_tables_of_whole_groups_stay_whole(tmp_path):
    rows = rollouts(*GROUPS)
    tables = [pa.Table.from_pylist(rows[start : start + 16]) for start in range(0, len(rows), 16)]
    found = shape_them(tables, tmp_path, elements="tables")
    assert found["rejected"] == []
    assert sorted(map(len, found["shaped"])) == [16, 16, 16]
    for table in found["shaped"]:
        mine = next(one for one in tables if one["group_id"][0] == table["group_id"][0])
        assert table.equals(shape(mine, CONFIG))


def test_without_numbers_the_order_is_that_of_the_content(tmp_path):
    rows = [{name: row[name] for name in row if name not in ("sample_index", "rollout_id")} for row in rollouts("a")]
    one = shape_them(rows, tmp_path)["shaped"]
    other = shape_them(rows[::-1], tmp_path)["shaped"]
    assert one[0].equals(other[0])


#: reason -> the elements of a bad group, named like its reason, and words that its rejection has
BAD_ROWS = {
    "length_mismatch": ([{"loss_mask": [True]}], "length_mismatch/0"),
    "step_ends": ([{"process_ends": [3, 2]}], "step_ends/0"),
    "non_finite": ([{"outcome_reward": float("nan")}], "non_finite/0"),
    "null_value": ([{"loss_mask": None}], "null_value/0"),
    "column_type": ([{"outcome_reward": "much"}], "outcome_reward"),
    "duplicate_rollout": ([{"sample_index": 1}, {"sample_index": 1}], "sample_index 1 is there twice"),
    "no_sample_index": ([{"sample_index": None}], "null sample_index"),
    "columns_differ": ([{}, {"more": 1}], "some rows of the group have more"),
}
OTHERS = {
    "missing_column": ({"group_id": "missing_column", "sample_index": 0}, "'format_reward' and 'format_ok' are both"),
    "empty_group": (("empty_group", pa.Table.from_pylist(rollouts("x")).slice(0, 0)), "no rollouts"),
    "not_a_table": (("not_a_table", 7), "int"),
}


def test_bad_groups_are_named_and_cost_no_other(tmp_path):
    good = rollouts("fine", "good")
    bad = [rollout(reason, index, **changed) for reason, (rows, _) in BAD_ROWS.items()
           for index, changed in enumerate(rows)]  # fmt: skip
    lost = rollout("", 3, group_id=None, rollout_id="lost/3")
    found = shape_them(shuffled([*good, *bad, *(element for element, _ in OTHERS.values()), lost]), tmp_path)
    assert rows_of(found["shaped"]) == shaped_here(good)
    assert all(isinstance(one, Rejection) for one in found["rejected"])
    told = {one.prompt_id: one for one in found["rejected"]}
    assert len(found["rejected"]) == len(told)
    for reason, (_, words) in {**BAD_ROWS, **OTHERS}.items():
        assert told[reason].reason == reason
        assert words in told[reason].detail
    homeless = told.pop("")
    assert (homeless.reason, homeless.sample_index) == ("no_group", 3)
    assert "rollout 'lost/3' belongs to no group" in homeless.detail
    assert set(told) == {*BAD_ROWS, *OTHERS}


def test_both_groups_of_a_straggler_are_rejected(tmp_path):
    """Neither is whole: the rollout belongs to one, and may have been meant for the other."""
    elements = [(row["group_id"], row) for row in rollouts("a", "b", "c")]
    elements[5] = ("a", elements[5][1])  # a rollout of b
    found = shape_them(elements, tmp_path)
    assert {one.prompt_id for one in found["rejected"]} == {"a", "b"}
    assert {row["group_id"] for row in rows_of(found["shaped"]).values()} == {"c"}


def test_bad_groups_of_a_table_leave_the_others_in_it(tmp_path):
    rows = rollouts("a", "b", "c")
    rows[5]["outcome_reward"] = float("inf")
    torn = rollouts("d", "e")
    torn = [torn[0], *torn[4:], *torn[1:4]]  # d, e, d
    nulls = [{**row, "group_id": None} for row in rollouts("f")]
    tables = [pa.Table.from_pylist(rows), pa.Table.from_pylist(torn + nulls)]
    found = shape_them([*tables, 7, pa.table({"x": [1]})], tmp_path, elements="tables")
    told = sorted((one.reason, one.prompt_id) for one in found["rejected"])
    assert told == [("group_order", "d"), ("missing_column", ""), *[("no_group", "")] * 4, ("non_finite", "b"),
                    ("not_a_table", "")]  # fmt: skip
    good = [*rows[:4], *rows[8:], *torn[1:5]]
    assert rows_of(found["shaped"]) == shaped_here(good, types_kept=True)


def test_a_group_in_two_tables_is_not_shaped_in_halves(tmp_path):
    a, b, c = (rollouts(group) for group in "abc")
    tables = [pa.Table.from_pylist([*a, *b[:2]]), pa.Table.from_pylist([*b[2:], *c])]
    found = shape_them(tables, tmp_path, elements="tables")
    assert {(one.reason, one.prompt_id) for one in found["rejected"]} == {("group_in_two_tables", "b")}
    assert rows_of(found["shaped"]) == shaped_here([*a, *c], types_kept=True)
    whole = shape_them(tables, tmp_path)  # as rows they come together
    assert whole["rejected"] == []
    assert rows_of(whole["shaped"]) == shaped_here([*a, *b, *c])


def test_asked_to_raise_the_job_fails_by_name(tmp_path):
    elements = [*rollouts("fine"), rollout("bad", 0, loss_mask=[True])]
    with pytest.raises(Exception, match=r"group 'bad' cannot be shaped: .*bad/0"):
        shape_them(elements, tmp_path, bad_groups="raise")


def test_an_estimator_that_breaks_costs_its_group(tmp_path):
    config = ShapingConfig(estimator="tests.pipelines.beam.broken:breaks_on_bad")
    rows = rollouts("fine", "bad")
    found = shape_them(rows, tmp_path, config)
    (told,) = found["rejected"]
    assert (told.prompt_id, told.reason, told.detail) == ("bad", "zero_division", "integer division or modulo by zero")
    assert rows_of(found["shaped"]) == shaped_here(rows[:4], config)


def test_what_is_no_fault_of_the_rows_is_raised(tmp_path):
    """A worker without a module would otherwise reject every group it meets."""
    config = ShapingConfig(estimator="tests.pipelines.beam.broken:lacks_a_module")
    with pytest.raises(Exception, match="No module named 'nowhere_to_be_found'"):
        shape_them(rollouts("fine"), tmp_path, config)


def test_nothing_in_nothing_out(tmp_path):
    assert shape_them([], tmp_path) == {"shaped": [], "rejected": []}
    assert shape_them([], tmp_path, elements="tables") == {"shaped": [], "rejected": []}
    empty = pa.Table.from_pylist(rollouts("a")).slice(0, 0)
    (table,) = shape_them([empty], tmp_path, elements="tables")["shaped"]
    assert table.schema == shape(empty, CONFIG).schema


def test_options_are_refused_by_name():
    with pytest.raises(OptionError, match="elements: expected one of rows, tables"):
        ShapeGroups(elements="row")
    with pytest.raises(OptionError, match="bad_groups"):
        ShapeGroups(bad_groups="drop")
    with pytest.raises(OptionError, match="statistics"):
        ShapeGroups(ShapingConfig(streams={"outcome": Stream(signal="outcome", weight=1.0, pool="dataset")}))
