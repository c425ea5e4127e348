from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pipelines.runs.evaluate import (
    EvalOptions,
    EvalResult,
    EvaluationError,
    bootstrap,
    paired_gain,
    pass_at_k,
)


def result(correct, *, prompt_ids=None, samples=4):
    return EvalResult(
        benchmark="held-out",
        policy_digest="d",
        prompts=len(correct),
        samples=samples,
        pass_at={1: bootstrap(np.array(correct) / samples)},
        mean_length=3.0,
        truncated=0.0,
        unscored=0,
        prompt_ids=tuple(prompt_ids or map(str, range(len(correct)))),
        correct_P=tuple(correct),
    )


@pytest.mark.parametrize("n", [1, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(n):
    for k in range(1, n + 1):
        for c in range(n + 1):
            subsets = list(combinations(range(n), k))
            by_hand = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(np.array([c]), n, k)[0] == pytest.approx(by_hand)


def test_pass_at_k_does_not_overflow_on_many_samples():
    assert pass_at_k(np.array([1]), 10_000, 5_000)[0] == pytest.approx(0.5)


def test_the_bootstrap_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    assert bootstrap(values).standard_error == pytest.approx(values.std(ddof=1) / 20, rel=0.1)


def test_equal_prompts_have_no_sampling_error():
    assert bootstrap(np.full(10, 0.25)).standard_error == 0.0


def test_a_gain_on_every_prompt_alike_has_no_error_though_each_result_has():
    before, after = result([0, 1, 2, 3]), result([1, 2, 3, 4])
    gain = paired_gain(before, after)
    assert gain.value == pytest.approx(0.25)
    assert gain.standard_error == pytest.approx(0.0, abs=1e-12)
    assert before.pass_at[1].standard_error > 0.05


def test_results_over_different_prompts_are_not_compared():
    with pytest.raises(EvaluationError, match="different prompts"):
        paired_gain(result([1, 2]), result([1, 2], prompt_ids=["a", "b"]))


def test_results_survive_their_file_format():
    stored = result([1, 2, 3])
    assert EvalResult.from_json(stored.to_json()) == stored


def test_k_beyond_the_samples_is_refused():
    with pytest.raises(EvaluationError, match="needs at least k samples"):
        EvalOptions(samples=4, k=(8,))
