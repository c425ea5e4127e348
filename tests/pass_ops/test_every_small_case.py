"""Every small case there is, where random ones would have to be lucky: masks and steps of short rollouts; ends."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from cases import check_against_oracle, to_config, to_table
from oracle import Options

from pass_ops import blocks, shape
from pass_ops.reading.ragged import Ragged, falling, last_values

MASKS = [list(mask) for length in range(4) for mask in itertools.product((True, False), repeat=length)]


def every_cut(length: int) -> list[list[int]]:
    """The ends of every way to cut a completion into steps."""
    inner = (cut for n in range(length) for cut in itertools.combinations(range(1, length), n))
    return [[*cut, length] for cut in inner] if length else [[]]


def rollout(rng: np.random.Generator, mask: list[bool], ends: list[int] | None = None) -> dict:
    """A rollout with random scores and rewards, quarters, so that sums of them are exact."""
    outcome, format_, *scores = (rng.integers(-12, 13, size=2 + len(mask if ends is None else ends)) / 4).tolist()
    made = {"mask": mask, "scores": scores, "outcome": outcome, "format": format_}
    return made if ends is None else made | {"ends": ends}


def small_groups(signal: str) -> list[list[dict]]:
    """kl: every pair of masks. prm: every mask with every cut, alone and beside seven others."""
    rng = np.random.default_rng(0)
    if signal == "kl":
        return [[rollout(rng, a), rollout(rng, b)] for a, b in itertools.product(MASKS, repeat=2)]
    rows = [(mask, ends) for mask in MASKS for ends in every_cut(len(mask))]
    pairs = [(row, rows[i - 5 * n]) for i, row in enumerate(rows) for n in range(1, 8)]
    return [[rollout(rng, *row) for row in group] for group in [*((row,) for row in rows), *pairs]]


@pytest.mark.parametrize("operator", ["none", "masked_norm", "leave_one_out"])
@pytest.mark.parametrize("chunk", [True, False])
@pytest.mark.parametrize("signal", ["kl", "prm"])
@pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process"])
def test_every_small_group_agrees_with_the_oracle(estimator, signal, chunk, operator):
    some = small_groups(signal)
    options = Options(estimator=estimator, signal=signal, chunk=chunk, standardize=(operator,) * 3)
    with mock.patch.object(blocks, "BLOCK_VALUES", 9):
        shaped = shape(to_table(some), to_config(options))
    assert check_against_oracle(some, options, shaped) < len(some) / 2


def test_wrong_ends_are_found_among_every_two_rows():
    some = [values for n in range(3) for values in itertools.product(range(4), repeat=n)]
    for a, b in itertools.product(some, some):
        values = np.array([9, 1, *a, *b], dtype=np.int32)  # those of a row before, which is not looked at
        starts = np.array([2, 2 + len(a), 2 + len(a) + len(b)], dtype=np.int32)
        ends = Ragged(starts_R1=starts, values=values)
        rising = [all(x < y for x, y in itertools.pairwise((0, *row))) for row in (a, b)]
        assert falling(ends).tolist() == [not rises for rises in rising], (a, b)
        assert last_values(ends).tolist() == [row[-1] if row else 0 for row in (a, b)], (a, b)
