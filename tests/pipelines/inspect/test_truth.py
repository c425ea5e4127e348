"""Advantages against a truer value of the same steps: A* worked by hand, alignment, ranking, and the command."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pass_ops import ShapingConfig, Weights
from pipelines.cli.parser import main
from pipelines.inspect.sample import GroupSample
from pipelines.inspect.sweep.choose import ChooseOptions, Chooser
from pipelines.inspect.sweep.report import sweep_view
from pipelines.inspect.sweep.settings import grid_settings, sweep
from pipelines.inspect.sweep.truth import Agreement, Truth, truth_advantages
from pipelines.options import ConfigError
from pipelines.parts.inputs import WrongInputError
from pipelines.shaped.stage import ShapeOptions
from trainer import TrainOptions

SCHEMA = Path(__file__).parents[3] / "docs" / "reference" / "json" / "sweep.schema.json"
ALONE = Weights(process=1.0, outcome=0.0, format=0.0)


def lists(values, kind):
    return pa.array(values, pa.list_(kind))


def rollouts_of(groups, masks):
    return pa.table({"group_id": pa.array(groups), "loss_mask": lists(masks, pa.bool_())})


def truth_of(scores, ends=None):
    columns = {"process_scores": lists(scores, pa.float32())}
    if ends is not None:
        columns["process_ends"] = lists(ends, pa.int32())
    return pa.table(columns)


# -- A* -------------------------------------------------------------------------------------------------------------


def test_a_value_becomes_its_distance_from_the_mean_of_the_groups_steps_each_step_once():
    """Group a: steps 1, 0 (three tokens), 0.5, mean 0.5. Group b: one step, which is its own mean."""
    found = truth_advantages(
        rollouts_of(["a", "a", "b"], [[True] * 4, [True], [True]]),
        truth_of([[1.0, 0.0], [0.5], [9.0]], [[1, 4], [1], [1]]),
        as_="value",
    )
    assert found.advantage_N.tolist() == [0.5, -0.5, -0.5, -0.5, 0.0, 0.0]
    assert found.valid_R.tolist() == [True, True, True]


def test_a_difference_is_taken_from_the_step_before_and_at_first_from_the_groups_mean_first_step():
    """First steps 0.5 and 0.25: the prompt is worth 0.375."""
    found = truth_advantages(
        rollouts_of(["a", "a"], [[True] * 4, [True] * 2]),
        truth_of([[0.5, 0.75, 0.0], [0.25, 1.0]], [[1, 3, 4], [1, 2]]),
        as_="difference",
    )
    assert found.advantage_N.tolist() == [0.125, 0.25, 0.25, -0.75, -0.125, 0.75]


@pytest.mark.parametrize("as_", ["value", "difference"])
def test_differences_of_a_rollout_sum_to_what_it_is_worth_beyond_its_prompt(as_):
    """Telescoping: sum of A* over steps = v(last) - v(prompt). Values do not telescope."""
    scores = [[0.5, 0.75, 0.0], [0.25, 1.0]]
    found = truth_advantages(
        rollouts_of(["a", "a"], [[True] * 3, [True] * 2]), truth_of(scores, [[1, 2, 3], [1, 2]]), as_=as_
    )
    sums = [found.advantage_N[:3].sum(), found.advantage_N[3:].sum()]
    assert (sums == pytest.approx([0.0 - 0.375, 1.0 - 0.375])) is (as_ == "difference")


@pytest.mark.parametrize("as_", ["value", "difference"])
def test_masked_steps_are_never_read_and_masked_tokens_get_nothing(as_):
    masks = [[True, False, False, False, True], [True]]
    results = [
        truth_advantages(
            rollouts_of(["a", "a"], masks), truth_of([[1.0, hidden, 0.5], [0.0]], [[2, 4, 5], [1]]), as_=as_
        ).advantage_N.tolist()
        for hidden in (0.0, 77.0)
    ]
    assert results[0] == results[1]
    assert results[0] == ([0.5, 0, 0, 0, 0.0, -0.5] if as_ == "value" else [0.5, 0, 0, 0, -0.5, -0.5])


@pytest.mark.parametrize("as_", ["value", "difference"])
def test_a_first_step_that_is_masked_is_no_base(as_):
    found = truth_advantages(
        rollouts_of(["a", "a"], [[False, True], [True, True]]),
        truth_of([[5.0, 1.0], [0.0, 0.5]], [[1, 2], [1, 2]]),
        as_=as_,
    )
    assert found.advantage_N.tolist() == ([0, 0.5, -0.5, 0.0] if as_ == "value" else [0, 0.5, -0.5, 0.5])


def test_a_null_truth_is_in_no_mean_and_its_rollout_has_no_truth():
    found = truth_advantages(
        rollouts_of(["a", "a", "a"], [[True], [True, True], [True]]),
        truth_of([[1.0], None, [0.0]], [[1], None, [1]]),
        as_="value",
    )
    assert found.advantage_N.tolist() == [0.5, 0.0, 0.0, -0.5]
    assert found.valid_R.tolist() == [True, False, True]


def test_a_truth_per_token_has_steps_of_one_token():
    found = truth_advantages(
        rollouts_of(["a", "a"], [[True, False, True], [True]]), truth_of([[1.0, 0.0, 3.0], [2.0]]), as_="value"
    )
    assert found.advantage_N.tolist() == [-1.0, 0.0, 1.0, 0.0]


def test_equal_truths_are_zero_to_the_last_bit():
    found = truth_advantages(rollouts_of(["a"] * 7, [[True]] * 7), truth_of([[0.1]] * 7, [[1]] * 7), as_="value")
    assert found.advantage_N.tolist() == [0.0] * 7


# -- alignment ------------------------------------------------------------------------------------------------------


def agreement(*settings, truth, groups, valid=None, trainable=None):
    """One token a rollout."""
    rows = len(truth)
    sums = Agreement(len(settings))
    sums.add(
        Truth(advantage_N=np.array(truth, float), valid_R=np.array(valid or [True] * rows)),
        [np.array(a, float) for a in settings],
        trainable=trainable or [np.ones(rows, bool)] * len(settings),
        row_U=np.arange(rows),
        group_R=np.array(groups),
        counting_N=np.ones(rows, bool),
    )
    return sums


def test_alignment_is_the_cosine_and_within_one_group_pearsons_correlation():
    generator = np.random.default_rng(1)
    a, t = generator.normal(1.0, 1.0, 50), generator.normal(-0.5, 2.0, 50)
    (found,) = agreement(a, truth=t, groups=[0] * 50).results()
    assert found.alignment.value == pytest.approx(a @ t / math.sqrt((a @ a) * (t @ t)))
    assert found.within_groups.value == pytest.approx(np.corrcoef(a, t)[0, 1])


def test_what_separates_prompts_counts_overall_and_not_within_groups():
    a, t = [11.0, 9.0, -9.0, -11.0], [9.0, 11.0, -11.0, -9.0]
    (found,) = agreement(a, truth=t, groups=[0, 0, 1, 1]).results()
    assert found.alignment.value == pytest.approx(4 * 99 / (2 * 121 + 2 * 81))
    assert found.within_groups.value == pytest.approx(-1.0)


def test_signal_to_noise_is_the_power_along_the_truth_against_the_rest():
    """One prompt: A = 2 A* + noise orthogonal to it, so 4 |A*|^2 / |noise|^2."""
    t, noise = np.array([1.0, -1.0, 1.0, -1.0]), np.array([0.5, 0.5, 0.5, 0.5])
    (found,) = agreement(2 * t + noise, truth=t, groups=[0] * 4).results()
    assert found.signal_to_noise["median"] == pytest.approx(4 * 4 / (4 * 0.25))
    away, nothing = agreement(-t, 0 * t, truth=t, groups=[0] * 4).results()
    assert away.signal_to_noise["median"] == nothing.signal_to_noise["median"] == 0.0
    assert nothing.alignment.value is None
    (flat,) = agreement(t, truth=0 * t, groups=[0] * 4).results()
    assert (flat.flat_prompts, flat.signal_to_noise["median"], flat.alignment.value) == (1, None, None)


def test_settings_are_ranked_with_an_interval_over_prompts():
    generator = np.random.default_rng(2)
    t = generator.normal(size=400)
    good, fair = t + generator.normal(size=400), t + 1.1 * generator.normal(size=400)
    bad, groups = -t, np.repeat(np.arange(40), 10)
    found = agreement(bad, fair, good, good, truth=t, groups=groups).results()
    assert [one.rank for one in found] == [4, 3, 1, 1]  # equals share the better rank
    assert (found[0].rank_low, found[0].rank_high) == (4, 4)
    assert found[2] == found[3]
    assert found[1].rank_low == 1  # in some draws it is first: 40 prompts do not tell them apart
    assert 0.0 < found[1].best_share < found[2].best_share < 1.0
    low, high = found[2].alignment.low, found[2].alignment.high
    assert low < found[2].alignment.value < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 * math.sqrt(0.5) / math.sqrt(200), rel=0.5)


def test_only_what_every_setting_trains_on_is_compared():
    trainable = [np.array([True, True, False, True]), np.array([True, False, True, True])]
    found = agreement(
        [1.0, 5, 5, 5], [1.0, 7, 7, 7], truth=[1.0] * 4, groups=[0] * 4, valid=[True, True, True, False],
        trainable=trainable,
    ).results()  # fmt: skip
    assert [(one.rollouts, one.tokens, one.without_truth, one.untrainable) for one in found] == [(1, 1, 1, 2)] * 2


def test_no_rollout_at_all_gives_no_number():
    (found,) = agreement([1.0], truth=[1.0], groups=[0], valid=[False]).results()
    assert (found.alignment.value, found.rank_low, found.prompts) == (None, None, 0)


# -- the sweep ------------------------------------------------------------------------------------------------------


def raw(**changes) -> ShapeOptions:
    options = {"process": "steps", "outcome": "verifier", "standardize": "none", "weights": ALONE, "k": 0.0}
    return ShapeOptions(**(options | changes))


@pytest.fixture
def scored(store_run, row):
    """Two parts of a group each; four steps a rollout, one or two tokens a step; some scores, outcomes half right."""
    generator = np.random.default_rng(4)

    def group(name):
        return [
            row(
                f"{name}/{index}",
                8,
                process_scores=generator.normal(size=4).tolist(),
                process_ends=[1, 3, 5, 8],
                outcome_reward=float(index % 2),
            )
            for index in range(4)
        ]

    return store_run(group("a"), group("b"), group("c"), options=raw())


def asked(run, settings, **options):
    chooser = Chooser(ChooseOptions(**options), signals=run.signals, train=TrainOptions(device="cpu"))
    return sweep(rollouts=run.rollouts, signals=run.signals, settings=settings, watcher=chooser)


def test_a_setting_that_is_the_truth_itself_is_aligned_fully(scored):
    """mean_only, each step's credit for itself alone: the truth's own definition as an estimator."""
    own = ShapeOptions(process="steps", estimator=f"{__name__}:centred_steps", weights=ALONE)
    reference, opposed = asked(scored, grid_settings(own, {"weights.process": [-1.0]}), truth="steps")
    assert reference.truth.alignment.value == pytest.approx(1.0)
    assert reference.truth.signal_to_noise["median"] > 1e5  # float32
    assert opposed.truth.alignment.value == pytest.approx(-1.0)
    assert (reference.truth.rank, opposed.truth.rank) == (1, 2)
    assert reference.truth.tokens == 3 * 4 * 8


def centred_steps(group, config):
    """w (v - mean of the group's steps) on each of a step's tokens."""
    mean = np.concatenate(group.scores).mean()
    return [
        np.repeat(config.weights.process * (scores - mean), np.diff(ends, prepend=0))
        for scores, ends in zip(group.scores, group.ends, strict=True)
    ]


def test_a_truth_of_another_kind_is_refused(scored):
    with pytest.raises(WrongInputError, match="--truth: the signal 'verifier' is of kind outcome; advantages can be"):
        asked(scored, grid_settings(raw(), {}), truth="verifier")


def test_nothing_is_added_where_nothing_is_asked(scored):
    (found,) = asked(scored, grid_settings(raw(), {}))
    assert (found.truth, found.forecast, found.gradient) == (None, (), None)


def test_a_forecast_looks_at_the_signals_of_each_setting(scored):
    found = asked(scored, grid_settings(raw(), {"k": [1.0]}), forecast=True, forecast_steps=(2,), groups=2)
    assert {(one.position, one.steps) for one in found[1].forecast} == {("start", 2), ("middle", 2), ("end", 2)}
    lowest, *_, highest = [one for one in found[0].forecast if one.position == "end"]
    assert (lowest.quantile, highest.quantile) == (0.0, 1.0)
    assert highest.total["all"].value == pytest.approx(2 * highest.score)
    assert highest.rollouts == {"all": 8, "right": 4, "wrong": 4}
    assert len({one.score for one in found[0].forecast}) == 5
    given = asked(scored, grid_settings(raw(), {}), forecast=True, forecast_scores=(0.25, 4.0))
    assert {one.score for one in given[0].forecast} == {0.25, 4.0}


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_a_sample_is_of_whole_groups_and_does_not_depend_on_the_parts(size):
    table = pa.table({"group_id": [f"g{n // 2}" for n in range(18)], "value": range(18)})
    taken = []
    for cut in (2, 6, 18):
        sample = GroupSample(size, seed=7)
        for first in range(0, 18, cut):
            sample.add(table.slice(first, cut), {"signal": table.slice(first, cut)})
        rollouts, signals = sample.tables()
        assert rollouts == signals["signal"]
        taken.append(rollouts["value"].to_pylist())
    assert taken[0] == taken[1] == taken[2]
    assert len(taken[0]) == 2 * size
    assert GroupSample(3).tables() is None


def test_every_group_is_as_likely_to_be_drawn():
    table = pa.table({"group_id": [f"g{n}" for n in range(8)]})
    counts = {}
    for seed in range(400):
        sample = GroupSample(2, seed=seed)
        sample.add(table, {})
        for name in sample.tables()[0]["group_id"].to_pylist():
            counts[name] = counts.get(name, 0) + 1
    assert len(counts) == 8
    assert all(60 < count < 140 for count in counts.values())  # 100 +- 4 standard deviations


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(scored, raw_config):
    return ["sweep", raw_config, "--out", scored.url, "--grid", "k=0.7,1"]


def test_the_command_shows_ranks_and_pay_and_prints_what_its_schema_says(command, scored, tmp_path, capsys):
    assert main([*command, "--truth", "steps", "--groups", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Agreement with the truth" in shown
    assert "Pay for added steps" in shown
    stored = pq.read_table(tmp_path / "run" / "round-000" / "sweep" / "sweep.parquet")
    assert sorted(stored["truth_rank"].to_pylist()) == [1.0, 2.0, 3.0]

    assert main([*command, "--truth", "steps", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(printed)
    assert [one["truth"]["alignment"]["value"] for one in printed] == stored["truth_alignment"].to_pylist()
    assert len(printed[0]["forecast"]) == 3 * 2 * 5


def test_plain_results_fit_the_schema_too_and_others_do_not(command, capsys):
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.validate(printed)
    assert not validator.is_valid([{**printed[0], "truth": {"rank": "first"}}])
    assert not validator.is_valid([{key: value for key, value in printed[0].items() if key != "tokens"}])


def test_the_tables_can_be_read_at_80_columns(scored):
    names = {"k": [0.7], "estimator": ["pass", "reward_shaping", "grpo_process"]}
    found = asked(scored, grid_settings(raw(), names), truth="steps", forecast=True)
    screen = io.StringIO()
    Console(file=screen, width=80).print(sweep_view(found))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    assert any(line.strip().startswith("setting") and "alignment" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "nothing"], "nothing"),
        (["--truth-as", "ratio"], "invalid choice: 'ratio'"),
        (["--forecast-steps", "0"], "'0' is not a whole number of 1 or more"),
        (["--forecast-scores", "1,nan"], "'1,nan' is no list of numbers such as 0,0.5,1"),
        (["--groups", "0"], "groups is 0: it must be greater than or equal to 1"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_what_cannot_be_asked_is_refused(command, arguments, message, capsys):
    try:
        code = main([*command, *arguments])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_question_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'truth'"):
        ChooseOptions(thruth="x")


def test_shaping_is_asked_as_a_black_box():
    """A new option of ShapingConfig needs no change here: none is read, but for scored.py's question after streams."""
    for name in ("forecast.py", "padding.py", "sweep/choose.py", "sweep/truth.py", "sweep/gradients.py"):
        text = (Path(__file__).parents[3] / "pipelines" / "inspect" / name).read_text()
        read = [
            field for field in ShapingConfig.__dataclass_fields__ if re.search(rf"(config|options)\.{field}\b", text)
        ]
        assert read == [], name
