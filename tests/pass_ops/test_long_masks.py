"""Masks that run over the words of 64 bits in which they are looked at, from any bit on."""

from __future__ import annotations

import pytest
from cases import Plan, check_against_oracle, make_groups, to_config, to_table
from oracle import Options

from pass_ops import shape


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("chunk", [True, False])
@pytest.mark.parametrize("signal", ["prm", "kl"])
def test_long_masked_runs_from_any_bit_on(signal, chunk, seed):
    plan = Plan(seed=seed, signal=signal, groups=5, most_rollouts=4, most_tokens=300, masked=0.9, nulls=0.05)
    groups = make_groups(plan)
    options = Options(estimator="pass", signal=signal, chunk=chunk)
    later = to_table(groups).slice(len(groups[0]))  # its first mask begins in the middle of a byte
    assert check_against_oracle(groups[1:], options, shape(later, to_config(options))) < len(groups)
