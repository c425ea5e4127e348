from __future__ import annotations

import numpy as np
import pytest

from trainer.options import TrainOptions
from trainer.order import all_steps, epoch_order, form_units, step_counts


def units_of(*, parts: int, groups: int, size: int = 2, tokens: int = 10):
    """`groups` groups of `size` rows in each part, every row `tokens` long."""
    rows = parts * groups * size
    numbers = np.arange(rows)
    return form_units(
        numbers, unit_R=numbers // size, part_R=numbers // (groups * size), tokens_R=np.full(rows, tokens, np.int64)
    )


def test_units_are_runs_of_rows_with_their_part_and_tokens():
    rows, unit, part, tokens = np.array([[3, 4, 7, 9], [1, 1, 2, 5], [0, 0, 0, 1], [5, 6, 7, 8]])
    units = form_units(rows, unit_R=unit, part_R=part, tokens_R=tokens)
    assert units.starts_U.tolist() == [0, 2, 3, 4]
    assert units.part_U.tolist() == [0, 0, 1]
    assert units.tokens_U.tolist() == [11, 7, 8]


def test_the_order_is_the_same_every_time_and_another_for_each_seed_and_epoch():
    units = units_of(parts=3, groups=20)

    def order(seed, epoch):
        return epoch_order(units, seed=seed, epoch=epoch, shuffle_tokens=10**6).tolist()

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert orders[0, 1] == order(0, 1)
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(sorted(found) == list(range(60)) for found in orders.values())


@pytest.mark.parametrize("shuffle_tokens", [400, 450])
def test_a_small_window_shuffles_within_parts_only(shuffle_tokens):
    units = units_of(parts=4, groups=10, tokens=10)  # 200 tokens a part
    order = epoch_order(units, seed=0, epoch=0, shuffle_tokens=shuffle_tokens)  # two parts fit
    windows = [set(units.part_U[order[i : i + 20]].tolist()) for i in (0, 20)]
    assert [len(window) for window in windows] == [2, 2]
    assert windows[0] | windows[1] == {0, 1, 2, 3}
    assert order[:20].tolist() != sorted(order[:20].tolist())


def test_every_epoch_has_each_row_once_and_steps_hold_whole_groups():
    units = units_of(parts=2, groups=9, size=4)
    steps = all_steps(units, TrainOptions(batch_size=5, epochs=2))
    assert [step.number for step in steps] == list(range(8))
    for epoch in (0, 1):
        rows = np.concatenate([step.rows_R for step in steps if step.epoch == epoch])
        assert sorted(rows.tolist()) == list(range(72))
    for step in steps:
        groups, counts = np.unique(step.rows_R // 4, return_counts=True)
        assert set(counts.tolist()) == {4}
        assert len(groups) in (4, 5)


def test_updates_are_dealt_to_the_epochs():
    assert step_counts(64, TrainOptions(updates=8)) == [8]
    assert step_counts(64, TrainOptions(updates=5, epochs=2)) == [2, 3]
    assert step_counts(64, TrainOptions(batch_size=10, epochs=2)) == [7, 7]
    assert step_counts(300, TrainOptions()) == [3]  # 128 a step where nothing is said
    assert step_counts(3, TrainOptions(updates=8)) == [3]  # a step has at least one unit
