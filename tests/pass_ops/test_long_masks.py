"""Masks that run over the words of 64 bits in which they are looked at, from any bit on."""

from __future__ import annotations

import numpy as np
import pytest
from cases import check_against_oracle, to_config, to_table
from hypothesis import given
from hypothesis import strategies as st
from oracle import Options
from strategies import MODERATE, examples, groups

from pass_ops import shape


@pytest.mark.parametrize("chunk", [True, False])
@pytest.mark.parametrize("signal", ["prm", "kl"])
@given(data=st.data())
@examples(12)
def test_long_masked_runs_from_any_bit_on(signal, chunk, data):
    drawn = data.draw(groups(signal, least=2, sizes=("long",), magnitudes=MODERATE))
    options = Options(estimator="pass", signal=signal, chunk=chunk)
    later = to_table(drawn).slice(len(drawn[0]))  # its first mask begins in the middle of a byte
    check_against_oracle(drawn[1:], options, shape(later, to_config(options)))


@pytest.mark.parametrize("chunk", [True, False])
def test_steps_of_many_masked_words(chunk):
    rng = np.random.default_rng(0)
    group = []
    for length in (1500, 1277, 64, 1):
        ends = [*sorted(rng.choice(np.arange(1, length), size=length // 120, replace=False).tolist()), length]
        scores = (rng.integers(-12, 13, size=len(ends)) / 4).tolist()
        mask = (rng.random(length) < 0.02).tolist()
        group.append({"mask": mask, "scores": scores, "ends": ends, "outcome": 1.0, "format": 0.0})
    options = Options(estimator="pass", signal="prm", chunk=chunk, standardize=("none",) * 3)
    assert check_against_oracle([group], options, shape(to_table([group]), to_config(options))) == 0
