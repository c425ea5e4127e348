"""Options that mean nothing are refused where they are made, by name, with the choices."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pytest
from malformed import INF, NAN, STEPS

from pass_ops import ShapingConfig, Standardizers, Weights, errors, shape

OPTIONS = {
    "estimator": (
        {"estimator": "pas"},
        "option estimator: unknown value 'pas'; the choices are 'pass', 'reward_shaping', 'grpo_process', "
        "'grpo_outcome', 'rloo', 'dr_grpo', 'gdpo', 'prime', 'gdpo_batch', 'reinforce_pp', 'reinforce_pp_baseline', "
        "'max_rl', 'opo', 'pass_at_k', 'grpo_lambda', 'pure', 'papo', 'verigate', 'capo', 'mrpo', 'vineppo', 'pav', "
        "'gigpo', 'saf_opd' and 3 more; did you mean 'pass'? "
        "(your own is given as module:function)",
    ),
    "estimator without a module": (
        {"estimator": ":shape"},
        "option estimator: ':shape' is not an import path; write it as module:name, for example mypackage.checks:judge",
    ),
    "signal": (
        {"signal": "opd"},
        "option signal: unknown value 'opd'; choose one of 'prm', 'kl'",
    ),
    "standardize": (
        {"standardize": "maskednorm"},
        "option standardize: unknown value 'maskednorm'; the choices are 'masked_norm', 'abs_max', 'mean_only', "
        "'leave_one_out', 'none'; did you mean 'masked_norm'?",
    ),
    "standardize is None": (
        {"standardize": None},
        "option standardize: unknown value None; the choices are 'masked_norm', 'abs_max', 'mean_only', "
        "'leave_one_out', 'none'; did you mean 'none'?",
    ),
    "standardize per stream": (
        {"standardize": Standardizers(), "estimator": "reward_shaping"},
        "option standardize: one operator per stream needs streams that are standardized separately, but "
        "estimator 'reward_shaping' standardizes them together; choose one of 'masked_norm', 'abs_max', 'mean_only', "
        "'leave_one_out', 'none'",
    ),
    "weights": (
        {"weights": {"process": 1.0}},
        "option weights: expected Weights(process=, outcome=, format=), got {'process': 1.0}; build a pass_ops.Weights",
    ),
    "k too large": (
        {"k": 1.5},
        "option k: expected a finite number from 0 to 1, got 1.5; choose a value in that range",
    ),
    "k below 0": (
        {"k": -0.1},
        "option k: expected a finite number from 0 to 1, got -0.1; choose a value in that range",
    ),
    "k is NaN": (
        {"k": NAN},
        "option k: expected a finite number from 0 to 1, got nan; choose a value in that range",
    ),
    "k is text": ({"k": "0.7"}, "option k: expected a finite number from 0 to 1, got '0.7'; give a number"),
    "eta": (
        {"eta": -1.0},
        "option eta: expected a finite number of at least 0, got -1.0; choose a value in that range",
    ),
    "eta is infinite": (
        {"eta": INF},
        "option eta: expected a finite number of at least 0, got inf; choose a value in that range",
    ),
    "chunk": ({"chunk": 1}, "option chunk: expected True or False, got 1; give a bool"),
    "std_ddof": (
        {"std_ddof": 2},
        "option std_ddof: expected 0 (population) or 1 (sample), got 2; choose one of them",
    ),
    "std_eps": (
        {"std_eps": None},
        "option std_eps: expected a finite number of at least 0, got None; give a number",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_refused_when_it_is_made(case):
    options, message = OPTIONS[case]
    with pytest.raises(errors.OptionError, match=f"^{re.escape(message)}$"):
        ShapingConfig(**options)


def test_wrong_weights_and_standardizers_name_their_stream():
    with pytest.raises(errors.OptionError, match=r"^option weights\.outcome: expected a finite number, got nan"):
        Weights(outcome=NAN)
    with pytest.raises(errors.OptionError, match=r"^option standardize\.format: unknown value 'abs-max'.*'abs_max'\?$"):
        Standardizers(format="abs-max")


def test_shape_takes_a_config_and_a_number_of_threads():
    with pytest.raises(errors.OptionError, match=r"^config: expected a ShapingConfig, got \{\}"):
        shape(STEPS, {})
    for threads in (0, True, 1.5, "2"):
        says = rf"^threads: expected a whole number of at least 1, got {threads!r}"
        with pytest.raises(errors.OptionError, match=says):
            shape(STEPS, ShapingConfig(), threads=threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: ShapingConfig(kk=1), "ShapingConfig: unknown option 'kk'; did you mean 'k'?"),
        (lambda: Weights(proces=1.0), "Weights: unknown option 'proces'; did you mean 'process'?"),
        (
            lambda: Standardizers(sound="none"),
            "Standardizers: unknown option 'sound'; choose one of 'process', 'outcome', 'format'",
        ),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(options, message):
    with pytest.raises(errors.OptionError, match=message.replace("?", r"\?")):
        options()


def test_options_survive_pickling_and_replacing():
    config = ShapingConfig(k=0.5, weights=Weights(format=0.0))
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, k=0.25).k == 0.25


def test_numbers_of_other_types_become_floats():
    config = ShapingConfig(k=1, eta=0, std_eps=1, std_ddof=0.0)
    assert [type(x) for x in (config.k, config.eta, config.std_eps, config.std_ddof)] == [float, float, float, int]
    assert type(Weights(process=1).process) is float


@pytest.mark.parametrize("value", [object, [], 1j, "x", None, True])
def test_what_is_no_number_is_refused(value):
    says = f"option k: expected a finite number from 0 to 1, got {value!r}; give a number"
    with pytest.raises(errors.OptionError, match=f"^{re.escape(says)}$"):
        ShapingConfig(k=value)
