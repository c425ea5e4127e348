from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pass_ops import Weights
from pass_ops.errors import OptionError, ShapingError
from pass_ops.options.config import ESTIMATORS
from pass_ops.options.published import PUBLISHED
from pipelines.cli.parser import main
from pipelines.inspect.sweep.choose import ChooseOptions, Chooser
from pipelines.inspect.sweep.distinct import distinct
from pipelines.inspect.sweep.settings import grid_settings, sweep
from pipelines.options import ConfigError, as_dict
from pipelines.parts.inputs import WrongInputError
from pipelines.shaped.stage import ShapeOptions
from trainer.options import TrainOptions

STEPS = ShapeOptions(process="steps", outcome="verifier", format="format")


def run_sweep(run, settings):
    return sweep(rollouts=run.rollouts, signals=run.signals, settings=settings)


@pytest.fixture
def two_groups(store_run, row):
    """Raw streams, no standardization, process weight 1 and no other: credits are the scores themselves.

    Group a: right, 2 tokens in 2 steps, credits 1 and 2; right, 4 tokens in 1 step, credit -1.
    Group b, in another part: wrong, 1 token, credit 3; wrong, 3 tokens in 3 steps, credits 0, 0 and 0.
    """
    return store_run(
        [
            row("a/0", 2, process_scores=[1.0, 2.0], process_ends=[1, 2]),
            row("a/1", 4, process_scores=[-1.0], process_ends=[4]),
        ],
        [
            row("b/0", 1, process_scores=[3.0], process_ends=[1], outcome_reward=0.0),
            row("b/1", 3, process_scores=[0.0, 0.0, 0.0], process_ends=[1, 2, 3], outcome_reward=0.0),
        ],
        options=raw(),
    )


def raw(**changes) -> ShapeOptions:
    weights = Weights(process=1.0, outcome=0.0, format=0.0)
    options = {"process": "steps", "outcome": "verifier", "standardize": "none", "weights": weights, "k": 0.0}
    return ShapeOptions(**(options | changes))


def test_the_numbers_of_two_groups_worked_by_hand(two_groups):
    (found,) = run_sweep(two_groups, grid_settings(raw(), {}))
    # return-to-go: a/0 is 3, 2; a/1 is -1 on four tokens; b/0 is 3; b/1 is 0 on three tokens
    assert (found.rollouts, found.trainable, found.tokens) == (4, 4, 10)
    assert found.positive_share == pytest.approx(3 / 10)
    assert found.positive_mean == pytest.approx(8 / 3)
    assert found.positive_std == pytest.approx(math.sqrt(2 / 9))
    assert found.negative_share == pytest.approx(4 / 10)
    assert (found.negative_mean, found.negative_std) == (-1.0, 0.0)
    assert found.zero_advantage == pytest.approx(1 / 4)
    assert found.chunks_per_rollout == pytest.approx(7 / 4)


def test_slopes_against_length_worked_by_hand(two_groups):
    (found,) = run_sweep(two_groups, grid_settings(raw(), {}))
    right, wrong = found.path["right"], found.path["wrong"]
    assert (right.rollouts, wrong.rollouts) == (2, 2)
    assert right.per_token == pytest.approx((-1 - 3) / (4 - 2))
    assert wrong.per_token == pytest.approx((0 - 3) / (3 - 1))
    assert right.within_groups == pytest.approx(right.per_token)
    assert found.mass["right"].per_token == pytest.approx((-4 - 5) / (4 - 2))
    assert found.mass["wrong"].per_token == pytest.approx((0 - 3) / (3 - 1))
    assert right.standard_error is None


def test_a_slope_within_groups_does_not_see_what_separates_prompts(store_run, row):
    """Scores rise with length between prompts, fall within each."""
    run = store_run(
        [
            row("a/0", 1, process_scores=[2.0], process_ends=[1]),
            row("a/1", 2, process_scores=[1.0], process_ends=[2]),
            row("b/0", 11, process_scores=[22.0], process_ends=[11]),
            row("b/1", 12, process_scores=[21.0], process_ends=[12]),
        ],
        options=raw(),
    )
    (found,) = run_sweep(run, grid_settings(raw(), {}))
    assert found.path["right"].per_token > 1.5
    assert found.path["right"].within_groups == pytest.approx(-1.0)


def test_the_reference_against_itself_correlates_fully_and_flips_nothing(two_groups):
    reference, again = run_sweep(two_groups, grid_settings(raw(), {"k": [0.0]}))
    assert reference.name == "reference"
    assert again.name == "k=0.0"
    for result in (reference, again):
        assert result.correlation == pytest.approx(1.0, abs=1e-12)
        assert result.sign_flips == 0.0
        assert result.compared_tokens == 10


def test_a_negative_weight_flips_every_sign(two_groups):
    _, mirrored = run_sweep(two_groups, grid_settings(raw(), {"weights.process": [-1.0]}))
    assert mirrored.correlation == pytest.approx(-1.0, abs=1e-12)
    assert mirrored.sign_flips == pytest.approx(7 / 10)  # the three tokens of advantage 0 have no sign to flip


def test_masked_tokens_are_in_no_number(store_run, row):
    mask = [True, False, False]
    run = store_run([row("a/0", 3, loss_mask=mask, process_scores=[1.0], process_ends=[3])], options=raw())
    (found,) = run_sweep(run, grid_settings(raw(), {}))
    assert (found.tokens, found.positive_mean, found.positive_share) == (1, 1.0, 1.0)


def test_rollouts_that_cannot_be_trained_on_are_counted_and_left_out(store_run, row):
    run = store_run([row("a/0", 3), row("a/1", 3, process_scores=None, process_ends=None)], options=raw())
    (found,) = run_sweep(run, grid_settings(raw(), {}))
    assert (found.rollouts, found.trainable, found.tokens) == (2, 1, 3)


def test_a_grid_holds_every_combination(store_run):
    settings = grid_settings(STEPS, {"k": [0, 1], "standardize.process": ["abs_max", "none"]})
    assert [setting.name for setting in settings] == [
        "reference",
        "k=0 standardize.process=abs_max",
        "k=0 standardize.process=none",
        "k=1 standardize.process=abs_max",
        "k=1 standardize.process=none",
    ]
    assert settings[1].options.standardizers.process == "abs_max"
    assert settings[1].options.standardizers.outcome == "masked_norm"


def test_estimators_may_be_compared(two_groups):
    found = run_sweep(two_groups, grid_settings(raw(), {"estimator": ["reward_shaping", "grpo_process"]}))
    assert [result.options["estimator"] for result in found] == ["pass", "reward_shaping", "grpo_process"]
    assert found[2].path["right"].per_token is None  # that estimator has no path score


@pytest.fixture
def logits(store_run, row):
    """Scores of two parts; some of the second are no probabilities."""
    return store_run(
        [row("a/0", 2, process_scores=[0.5], process_ends=[2]), row("a/1", 3, outcome_reward=0.0)],
        [row("b/0", 4, process_scores=[3.0], process_ends=[4]), row("b/1", 2, outcome_reward=0.0)],
        options=STEPS,
    )


def test_settings_that_cannot_be_computed_are_left_out_by_name_and_the_others_are_what_they_are_without_them(logits):
    reasons = {}
    every = grid_settings(STEPS, {"estimator": [*ESTIMATORS, *PUBLISHED]})
    asked = {"rollouts": logits.rollouts, "signals": logits.signals}
    chooser = Chooser(ChooseOptions(truth="steps", forecast=True), signals=logits.signals, train=TrainOptions())
    found = sweep(**asked, settings=every, watcher=chooser, left_out=reasons.__setitem__)
    assert list(reasons) == [f"estimator={name}" for name in ("gigpo", "entropy_top", "gtpo", "pav")]
    assert "process score 3 is no probability" in str(reasons["estimator=pav"])
    assert "'state' is missing" in str(reasons["estimator=gigpo"])
    computable = [setting for setting in every if setting.name not in reasons]
    chooser = Chooser(ChooseOptions(truth="steps", forecast=True), signals=logits.signals, train=TrainOptions())
    assert found == sweep(**asked, settings=computable, watcher=chooser)


def test_a_reference_that_cannot_be_computed_and_a_setting_nobody_would_be_told_of_end_the_sweep(logits):
    asked = {"rollouts": logits.rollouts, "signals": logits.signals}
    told = []
    for settings, left_out in (
        (grid_settings(replace(STEPS, estimator="pav"), {"estimator": ["rloo"]}), lambda *one: told.append(one)),
        (grid_settings(STEPS, {"estimator": ["pav", "rloo"]}), None),
    ):
        with pytest.raises(ShapingError, match="process score 3 is no probability"):
            sweep(**asked, settings=settings, left_out=left_out)
    assert told == []


def own(group, config):
    return [2.0 * outcome - np.ones(len(mask)) for mask, outcome in zip(group.mask, group.outcome, strict=True)]


def test_every_named_estimator_and_one_by_import_path_may_be_compared(two_groups):
    base = replace(raw(), weights=Weights(process=1.0, outcome=1.0, format=0.0))
    names = [*ESTIMATORS, f"{__name__}:own"]
    reference, *found = run_sweep(two_groups, grid_settings(base, {"estimator": names}))
    assert [result.options["estimator"] for result in found] == names
    assert found[0].correlation == pytest.approx(1.0)
    assert (found[-1].positive_mean, found[-1].negative_mean, found[-1].chunks_per_rollout) == (1.0, -1.0, 1.0)
    assert {result.tokens for result in found} == {reference.tokens}


def test_an_unknown_option_of_the_grid_names_the_nearest():
    with pytest.raises(ConfigError, match=r"setting 'kk=0'.*\n.*did you mean 'k'"):
        grid_settings(STEPS, {"kk": [0]})


def test_a_value_out_of_range_names_the_setting():
    with pytest.raises(ConfigError, match=r"setting 'k=2'.*\n.*k is 2: it must be less than or equal to 1"):
        grid_settings(STEPS, {"k": [2]})


# -- settings that are one and the same ----------------------------------------------------------------------------


def names_of(base, grid):
    return {one.name: one.same for one in distinct(grid_settings(base, grid))}


def test_what_an_estimator_does_not_read_makes_no_setting_of_its_own():
    found = names_of(STEPS, {"estimator": ["pass", "rloo", "papo"], "k": [0.0, 1.0]})
    assert found == {
        "reference": (),
        "estimator=pass k=0.0": (),
        "estimator=pass k=1.0": (),
        "estimator=rloo k=0.0": ("estimator=rloo k=1.0",),
        "estimator=papo k=0.0": ("estimator=papo k=1.0",),
    }


@pytest.mark.parametrize(
    ("estimator", "key", "values", "read"),
    [
        ("pass", "k", [0.0, 1.0], True),
        ("pass", "chunk", [True, False], True),
        ("pass", "standardize", ["none", "mean_only"], True),
        ("grpo_outcome", "weights.process", [0.0, 2.0], False),
        ("grpo_outcome", "standardize", ["none", "mean_only"], True),
        ("rloo", "standardize", ["none", "mean_only"], False),
        ("grpo_process", "k", [0.0, 1.0], False),
        ("grpo_process", "weights.process", [1.0, 2.0], True),
        ("prime", "chunk", [True, False], False),
        ("opo", "k", [0.0, 1.0], False),
        ("pure", "weights.process", [1.0, 2.0], True),
        ("pure", "method_options.temperature", [0.1, 1.0], True),
        ("max_rl", "eta", [0.0, 0.5], True),
        ("saf_opd", "eta", [0.0, 0.5], False),
        (f"{__name__}:reads_k", "k", [0.0, 1.0], True),
    ],
)
def test_options_that_are_read_stay_apart(two_groups, estimator, key, values, read):
    """And those that are called unread change no number."""
    base = replace(STEPS, estimator=estimator)
    settings = grid_settings(base, {key: values})
    assert len(distinct(settings)) == (3 if read else 1 + values.count(plain(base, key)))
    if not read and estimator != "saf_opd":  # it reads a score a token
        _, first, second = run_sweep(two_groups, settings)
        assert replace(first, name="", options={}) == replace(second, name="", options={})


def plain(options, key):
    value = as_dict(options)
    for part in key.split("."):
        value = value[part]
    return value


def reads_k(group, config):
    return [[config.k] * len(mask) for mask in group.mask]


def test_a_setting_that_equals_the_reference_by_value_stays_since_it_was_asked_for():
    assert names_of(STEPS, {"k": [0.7]}) == {"reference": (), "k=0.7": ()}


def test_the_command_says_which_settings_were_left_out(two_groups, raw_config, capsys):
    changed = ["--set", "shape.weights.outcome=1.0"]
    command = ["sweep", raw_config, "--out", two_groups.url, *changed, "--grid", "estimator=rloo", "--grid", "k=0,1"]
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "estimator=rloo k=0 also stands for estimator=rloo k=1" in shown
    assert main([*command, "--json"]) == 0
    assert [one["same"] for one in json.loads(capsys.readouterr().out)] == [[], ["estimator=rloo k=1"]]


def test_an_option_below_a_plain_value_is_refused():
    with pytest.raises(OptionError, match="k is one value"):
        grid_settings(STEPS, {"k.process": [1]})


def test_a_stream_without_a_signal_is_refused_before_anything_is_read():
    with pytest.raises(OptionError, match="option format"):
        grid_settings(raw(), {"weights.format": [1.0]})


def test_a_signal_of_another_kind_is_refused_before_anything_is_read(two_groups):
    with pytest.raises(WrongInputError, match="signal is 'kl'"):
        run_sweep(two_groups, grid_settings(raw(), {"signal": ["kl"]}))


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_parquet_and_svg_and_shows_a_table(two_groups, raw_config, tmp_path, capsys):
    arguments = ["sweep", raw_config, "--out", two_groups.url, "--grid", "k=0,1", "--grid", "estimator=pass"]
    assert main(arguments) == 0
    folder = tmp_path / "run" / "round-000" / "sweep"
    stored = pq.read_table(folder / "sweep.parquet")
    assert stored["setting"].to_pylist() == ["reference", "k=0 estimator=pass", "k=1 estimator=pass"]
    assert stored["correlation"].to_pylist()[:2] == pytest.approx([1.0, 1.0])
    assert stored["path_right_per_token"].to_pylist()[0] == pytest.approx(-2.0)
    assert json.loads(stored["options"][2].as_py())["k"] == 1
    drawn = (folder / "sweep.svg").read_text()
    assert drawn.lstrip().startswith("<?xml")
    assert "k=1 estimator=pass" in drawn
    shown = capsys.readouterr().out
    assert "chunks" in shown

    assert main([*arguments, "--json", "--name", "again"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sign_flips"] == 0.0
    assert (folder / "again.svg").read_bytes() == (folder / "sweep.svg").read_bytes()


def test_a_grid_that_cannot_be_read_is_wrong_usage(two_groups, raw_config, capsys):
    assert main(["sweep", raw_config, "--out", two_groups.url, "--grid", "k"]) == 2
    assert "--grid 'k'" in capsys.readouterr().err
