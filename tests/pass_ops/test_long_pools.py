"""Pools of more values than are added up side by side, from any place on: against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from cases import check_against_oracle, to_config, to_table
from oracle import Options

from pass_ops import shape
from pass_ops.standardize import LANES

LENGTHS = (1, LANES - 1, LANES, LANES + 1, 2 * LANES + 3, 5 * LANES)


def rollout(rng: np.random.Generator, length: int, *, masked: bool) -> dict:
    outcome, format_ = rng.normal(size=2).astype(np.float32).tolist()
    mask = rng.random(length) < 0.6 if masked else np.ones(length, dtype=bool)
    scores = rng.normal(3.0, size=length).astype(np.float32).tolist()
    return {"mask": mask.tolist(), "scores": scores, "outcome": outcome, "format": format_}


@pytest.mark.parametrize("operator", ["masked_norm", "abs_max", "leave_one_out"])
@pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process"])
def test_long_pools_agree_with_the_oracle(estimator, operator):
    rng = np.random.default_rng(0)
    some = [
        [rollout(rng, a, masked=False), rollout(rng, b, masked=masked), rollout(rng, a, masked=False)]
        for a in LENGTHS
        for b in LENGTHS
        for masked in (False, True)
    ]
    weights = (0.5, 2.0, 1.0)
    options = Options(estimator=estimator, signal="kl", chunk=False, standardize=(operator,) * 3, weights=weights)
    assert check_against_oracle(some, options, shape(to_table(some), to_config(options))) < len(some) / 2
