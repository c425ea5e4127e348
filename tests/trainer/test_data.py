from __future__ import annotations

import uuid
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.shards import open_dataset
from tests.trainer.rows import (
    as_rollout,
    changed,
    fully_masked,
    random_rows,
    split_groups,
    untrainable,
    write_shaped,
)
from trainer import train
from trainer.data import ShapedData, build_index, select
from trainer.errors import StateError, TrainDataError
from trainer.model_folder import weights_digest
from trainer.options import TrainOptions
from trainer.order import Step, all_steps
from trainer.stream import ahead_of_use, decode_part, old_file, read_old, stream_steps

ROWS = random_rows(groups=6, size=3)
EXPECTED_ORDER = [f"g{number:03d}" for number in (1, 0, 2, 5, 4, 3, 0, 5, 4, 1, 2, 3)]


def data_of(*urls: str) -> ShapedData:
    return ShapedData(tuple(open_dataset(url) for url in urls))


def selected(data, **options):
    index = build_index(data, threads=2)
    return index, select(index, TrainOptions(**options), context=64)


def test_the_index_holds_what_the_rows_say(make_shaped):
    index = build_index(data_of(make_shaped(split_groups(ROWS, 2))), threads=2)
    assert index.part_R.tolist() == [0] * 9 + [1] * 9
    assert index.row_R.tolist() == [*range(9), *range(9)]
    assert index.group_R.tolist() == [g for g in range(6) for _ in range(3)]
    assert index.length_R.tolist() == [len(row.prompt) + len(row.tokens) for row in ROWS]
    assert index.unmasked_R.tolist() == [sum(row.mask) for row in ROWS]
    assert index.trainable_R.all()
    assert not index.zero_R.any()


def test_groups_of_two_datasets_stay_apart(make_shaped):
    index = build_index(
        data_of(*(make_shaped([ROWS[:3]], name=name, seed=seed) for seed, name in enumerate("ab"))), threads=2
    )
    assert index.group_R.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.part_R.tolist() == [0, 0, 0, 1, 1, 1]


def test_untrainable_and_fully_masked_rows_are_in_no_step(make_shaped):
    rows = [untrainable(row) if i == 1 else fully_masked(row) if i == 4 else row for i, row in enumerate(ROWS)]
    _, selection = selected(data_of(make_shaped([rows])))
    assert selection.counts["untrainable"] == 2
    assert set(range(18)) - set(selection.units.rows_R.tolist()) == {1, 4}


def test_groups_without_any_advantage_are_dropped_where_asked(make_shaped):
    silent = [replace(row, advantages=(0.0, 0.0)) if row.group == "g001" else row for row in ROWS]
    silent = changed(silent, 0, advantages=(0.0, 0.0))  # one silent rollout does not silence its group
    data = data_of(make_shaped([silent]))
    assert selected(data)[1].counts["left"] == 18
    _, by_group = selected(data, zero_advantage="drop")
    assert (by_group.counts["zero_advantage"], by_group.counts["left"]) == (3, 15)
    assert selected(data, zero_advantage="drop", unit="rollout")[1].counts["zero_advantage"] == 4


def test_an_advantage_of_a_rollout_that_is_dropped_anyway_keeps_no_group(make_shaped):
    rows = [replace(row, advantages=(0.0, 0.0)) if row.group == "g001" else row for row in ROWS]
    rows[3] = replace(fully_masked(rows[3]), trainable=True, advantages=(1.0,))
    _, selection = selected(data_of(make_shaped([rows])), zero_advantage="drop")
    assert (selection.counts["untrainable"], selection.counts["zero_advantage"], selection.counts["left"]) == (1, 2, 15)


def test_long_rollouts_are_kept_masked_or_dropped(make_shaped):
    data = data_of(make_shaped([ROWS]))
    long = {i for i, row in enumerate(ROWS) if len(row.prompt) + len(row.tokens) > 8}
    assert 0 < len(long) < 18
    assert not selected(data, max_length=8)[1].masked_R.any()
    _, masked = selected(data, max_length=8, too_long="mask")
    assert set(np.flatnonzero(masked.masked_R).tolist()) == long
    assert masked.counts["left"] == 18
    _, dropped = selected(data, max_length=8, too_long="drop")
    assert set(dropped.units.rows_R.tolist()) == set(range(18)) - long
    assert dropped.counts["too_long"] == len(long)


def test_rollouts_beyond_the_context_are_refused_unless_told(make_shaped):
    index = build_index(data_of(make_shaped([ROWS])), threads=1)
    with pytest.raises(TrainDataError, match=r"longer than the policy's context.*too_long"):
        select(index, TrainOptions(), context=8)
    assert select(index, TrainOptions(too_long="drop"), context=8).counts["too_long"] > 0


def test_old_rounds_are_dropped_where_asked(make_shaped):
    rows = [replace(row, round=int(row.group[1:]) // 3) for row in ROWS]
    _, selection = selected(data_of(make_shaped([rows])), min_round=1)
    assert selection.counts["too_old"] == 9


def test_nothing_left_is_an_error_with_the_counts(make_shaped):
    data = data_of(make_shaped([[untrainable(row) for row in ROWS]]))
    with pytest.raises(TrainDataError, match="untrainable 18"):
        selected(data)


def test_a_step_streams_the_rows_it_names(make_shaped):
    data = data_of(make_shaped(split_groups(ROWS, 3)))
    index, selection = selected(data)
    steps = all_steps(selection.units, TrainOptions(batch_size=2, epochs=2))
    streamed = stream_steps(data, index, steps, reference=True, threads=2, ahead=2)
    for step, rollouts in zip(steps, streamed, strict=True):
        for number, found in zip(step.rows_R, rollouts, strict=True):
            expected = as_rollout(ROWS[number])
            assert found.rollout_id == expected.rollout_id
            for name in ("prompt_ids", "token_ids_T", "mask_T", "behavior_T", "advantages_T", "reference_T"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_only_the_parts_of_the_next_steps_are_decoded(make_shaped, monkeypatch):
    data = data_of(make_shaped(split_groups(ROWS, 6)))
    index, _ = selected(data)
    steps = [Step(number=p, epoch=0, rows_R=np.flatnonzero(index.part_R == p)) for p in range(6)]
    decoded = []

    def watched(data, part, **arguments):
        decoded.append(part)
        return decode_part(data, part, **arguments)

    monkeypatch.setattr("trainer.stream.decode_part", watched)
    stream = stream_steps(data, index, steps, reference=False, threads=1, ahead=1)
    next(stream)
    stream.close()
    assert set(decoded) <= {0, 1}


def test_memory_holds_the_parts_of_two_windows_whatever_the_number_of_parts(make_shaped, monkeypatch):
    data = data_of(make_shaped([[row] for row in random_rows(groups=12, size=1)]))
    index, selection = selected(data, shuffle_tokens=1)  # a window of one part
    alive, most = set(), 0

    def watched(*arguments, **options):
        nonlocal most
        part = decode_part(*arguments, **options)
        alive.add(id(part))
        weakref.finalize(part, alive.discard, id(part))
        most = max(most, len(alive))
        return part

    monkeypatch.setattr("trainer.stream.decode_part", watched)
    steps = all_steps(selection.units, TrainOptions(batch_size=1, epochs=2, shuffle_tokens=1))
    assert len(steps) == 24
    rollouts = 0
    for members in stream_steps(data, index, steps, reference=False, threads=2, ahead=2):
        rollouts += len(members)
        del members
    assert rollouts == 24
    assert most <= 2 + 1 + 1 + 1  # the steps ahead, this one, one just given away, one under way


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [1, 5])
def test_workers_change_nothing_about_which_rollouts_form_a_step(make_shaped, threads, ahead):
    data = data_of(make_shaped(split_groups(ROWS, 3)))
    index, selection = selected(data)
    steps = all_steps(selection.units, TrainOptions(batch_size=1, epochs=2, seed=3))
    streamed = stream_steps(data, index, steps, reference=False, threads=threads, ahead=ahead)
    found = [[rollout.rollout_id for rollout in members] for members in streamed]
    assert found == [[ROWS[number].rollout_id for number in step.rows_R] for step in steps]
    # Two epochs of six groups, each its own order; written down once: a change of the order is a change of every run.
    assert [names[0].split("/")[0] for names in found] == EXPECTED_ORDER


def test_shards_on_another_store_train_as_local_ones_do(make_shaped, policy_folder, tmp_path):
    parts = split_groups(ROWS, 2)
    remote = write_shaped(f"memory://{uuid.uuid4().hex}/shaped", parts)
    options = TrainOptions(device="cpu", batch_size=3, tensorboard=False)
    made = [
        train([url], policy=policy_folder, out=str(tmp_path / name), options=options).policy_dir
        for name, url in (("remote", remote), ("local", make_shaped(parts)))
    ]
    assert weights_digest(Path(made[0])) == weights_digest(Path(made[1]))


def test_a_rollout_without_reference_gives_nan(make_shaped):
    part = decode_part(data_of(make_shaped([changed(ROWS, 2, reference=None)])), 0, reference=True)
    assert np.isnan(part[2].reference_T).all()
    np.testing.assert_array_equal(part[3].reference_T, as_rollout(ROWS[3]).reference_T)


def test_a_missing_reference_column_names_the_option(make_shaped):
    data = data_of(make_shaped([[replace(row, reference=None) for row in ROWS]]))
    with pytest.raises(TrainDataError, match=r"no column reference_logprobs.*kl_coef 0"):
        decode_part(data, 0, reference=True)


def test_columns_of_unequal_length_name_the_rollout(make_shaped, monkeypatch):
    data = data_of(make_shaped([ROWS]))
    table = data.read(0, data.sources[0].read_part(0).column_names)
    short = [list(row.behavior)[:-1] if i == 5 else list(row.behavior) for i, row in enumerate(ROWS)]
    at = table.column_names.index("behavior_logprobs")
    broken = table.set_column(at, "behavior_logprobs", pa.array(short, pa.list_(pa.float32())))
    monkeypatch.setattr(ShapedData, "read", lambda self, part, columns: broken.select(list(columns)))
    with pytest.raises(TrainDataError, match=f"rollout {ROWS[5].rollout_id} has"):
        decode_part(data, 0, reference=False)


def test_an_error_while_reading_ahead_reaches_the_reader_in_its_place():
    def items():
        yield 1
        raise TrainDataError("part 1 is broken")

    taken = ahead_of_use(items(), depth=3)
    assert next(taken) == 1
    with pytest.raises(TrainDataError, match="part 1 is broken"):
        next(taken)


class Damaged:
    """Data as another program might have written it: a column of every part replaced."""

    def __init__(self, data: ShapedData, name: str, change) -> None:
        self.data, self.name, self.change = data, name, change
        self.places, self.describe, self.rows = data.places, data.describe, data.rows

    def read(self, part, columns):
        table = self.data.read(part, columns)
        if self.name not in columns:
            return table
        values = [self.change(value, part) for value in table[self.name].to_pylist()]
        return table.set_column(table.column_names.index(self.name), self.name, pa.array(values, table[self.name].type))


@pytest.mark.parametrize("column", ["behavior_logprobs", "reference_logprobs"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 0.5])
def test_what_is_no_logprob_is_refused_with_its_rollout(make_shaped, column, value):
    rows = split_groups(ROWS, 2)
    chosen = (tuple(map(float, np.float32(rows[1][4].behavior))), tuple(map(float, np.float32(rows[1][4].reference))))

    def change(values, part):
        return [*values[:-1], value] if tuple(values) in chosen else values

    data = data_of(make_shaped(rows))
    build_index(data, threads=1, reference=True)
    damaged = Damaged(data, column, change)
    with pytest.raises(TrainDataError, match=rf"part 1: rollout {rows[1][4].rollout_id} has {column} .*passrl verify"):
        build_index(damaged, threads=1, reference=True)
    if column == "reference_logprobs":
        build_index(damaged, threads=1)  # nothing will read it


@pytest.mark.parametrize("column", ["behavior_logprobs", "reference_logprobs"])
def test_logprobs_missing_throughout_are_refused(make_shaped, column):
    empty = Damaged(data_of(make_shaped([ROWS])), column, lambda values, part: [])
    with pytest.raises(TrainDataError, match=f"no {column} at all"):
        build_index(empty, threads=1, reference=True)


def test_a_rollout_that_is_there_twice_is_refused(make_shaped):
    data = data_of(make_shaped(split_groups(ROWS, 2)))
    first = ROWS[0].rollout_id
    repeated = Damaged(data, "rollout_id", lambda value, part: first if value == ROWS[-1].rollout_id else value)
    with pytest.raises(TrainDataError, match=f"Rollout {first} is there more than once"):
        build_index(repeated, threads=1)


def test_a_part_of_other_rows_than_its_dataset_counts_is_refused(make_shaped):
    data = data_of(make_shaped(split_groups(ROWS, 2)))
    short = Damaged(data, "round", lambda value, part: value)
    short.read = lambda part, columns: data.read(part, columns).slice(part)
    with pytest.raises(TrainDataError, match=r"part 1 has \d+ rows, and its dataset counts \d+\. Run passrl verify"):
        build_index(short, threads=1)


def test_recomputed_logprobs_are_read_back_and_refused_where_they_are_not_the_parts(tmp_path):
    values = np.array([-0.5, -1.5, -2.5], np.float32)
    np.save(old_file(tmp_path, 2), values)
    assert read_old(tmp_path, 2, tokens=3).tolist() == values.tolist()
    with pytest.raises(StateError, match=r"part-000002\.npy holds float32 \(3,\), its part has 4 tokens"):
        read_old(tmp_path, 2, tokens=4)
    np.save(old_file(tmp_path, 3), values.astype(np.float64))
    with pytest.raises(StateError, match="holds float64"):
        read_old(tmp_path, 3, tokens=3)
    with pytest.raises(StateError, match=r"part-000004\.npy cannot be read"):
        read_old(tmp_path, 4, tokens=3)
    old_file(tmp_path, 2).write_bytes(b"no numbers")
    with pytest.raises(StateError, match=r"part-000002\.npy cannot be read"):
        read_old(tmp_path, 2, tokens=3)
