"""What appended steps earn: the paper's theorem, and an independent oracle over rollouts padded by hand."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, shape
from pass_ops.options.config import ESTIMATORS
from pipelines.inspect.forecast import Level, forecast, given_levels, pays_from, score_levels
from pipelines.inspect.padding import POSITIONS, padded, places
from pipelines.inspect.resample import draws, mean_over_prompts

PROCESS_ALONE = Weights(process=1.0, outcome=0.0, format=0.0)


def table(*rollouts, group="q"):
    """Rollouts as the oracle takes them: mask, scores, ends (None: one score a token), outcome, format."""
    columns = {
        "group_id": pa.array([r.get("group", group) for r in rollouts]),
        "rollout_id": pa.array([f"{group}/{i}" for i in range(len(rollouts))]),
        "loss_mask": pa.array([r["mask"] for r in rollouts], pa.list_(pa.bool_())),
        "process_scores": pa.array([r["scores"] for r in rollouts], pa.list_(pa.float32())),
        "process_ends": pa.array([r.get("ends") for r in rollouts], pa.list_(pa.int32())),
        "outcome_reward": pa.array([r.get("outcome", 0.0) for r in rollouts], pa.float32()),
        "format_reward": pa.array([r.get("format", 0.0) for r in rollouts], pa.float32()),
        "verify_status": pa.array(["ok" if r.get("outcome") else "wrong" for r in rollouts]),
    }
    if all(r.get("ends") is None for r in rollouts):
        del columns["process_ends"]
    return pa.table(columns)


def steps_of(*credits, tokens=2):
    count = len(credits)
    return {
        "mask": [True] * (tokens * count),
        "scores": list(credits),
        "ends": [tokens * (step + 1) for step in range(count)],
    }


def raw(k: float) -> ShapingConfig:
    """Credits are the scores themselves."""
    return ShapingConfig(standardize="none", weights=PROCESS_ALONE, k=k)


def one(found, position="end", steps=1):
    (match,) = [f for f in found if f.position == position and f.steps == steps]
    return match


# -- the paper ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("m", [1, 5, 40])
def test_theorem_1_without_length_division_m_steps_of_value_e_earn_m_times_e(position, m):
    rollouts = table(steps_of(1.0, -2.0, 0.5))
    found = forecast(rollouts, raw(k=0.0), levels=given_levels(rollouts, [0.25]), steps=[m])
    assert one(found, position, m).total["all"].value == pytest.approx(m * 0.25)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.0])
def test_theorem_1_with_length_division_an_average_above_e_over_k_ends_the_pay(k):
    """Eq. 8: beyond some length a step of value e pays while the average is below e / k, and costs above."""
    e = 0.5
    for average, pays in ((0.95 * e / k, True), (1.05 * e / k, False)):
        rollouts = table(steps_of(*[average] * 400, tokens=1))
        (found,) = forecast(rollouts, raw(k), levels=given_levels(rollouts, [e]), steps=[1], positions=["end"])
        assert (found.total["all"].value > 0) is pays


@pytest.mark.parametrize("k", [0.0, 0.4, 1.0])
def test_the_total_credit_is_the_papers_path_score(k):
    rollouts = table(steps_of(1.0, -2.0, 0.5))
    (found,) = forecast(rollouts, raw(k), levels=given_levels(rollouts, [2.0]), steps=[3], positions=["middle"])
    assert found.total["all"].value == pytest.approx((-0.5 + 3 * 2.0) / 6**k - (-0.5) / 3**k, rel=1e-6)


def test_what_an_added_step_itself_is_given():
    """k = 0: at the end of the rollout the sum of the added steps from there on; at its start also all that follows."""
    rollouts = table(steps_of(1.0, -2.0, 0.5))
    found = forecast(rollouts, raw(0.0), levels=given_levels(rollouts, [4.0]), steps=[2])
    assert one(found, "end", 2).own["all"].value == pytest.approx((8 + 4) / 2)
    assert one(found, "start", 2).own["all"].value == pytest.approx((8 + 4) / 2 - 0.5)


# -- every estimator, against rollouts padded by hand ----------------------------------------------------------------


@pytest.fixture
def oracle(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "pass_ops"))
    import oracle

    return oracle


def random_group(signal: str):
    chance = random.Random(11)
    rollouts = []
    for index in range(3):
        steps = 2 + index
        tokens = 3 * steps
        mask = [chance.random() > 0.2 for _ in range(tokens)]
        mask[0] = mask[-1] = True
        count = steps if signal == "prm" else tokens
        scores = [chance.gauss(0, 1) for _ in range(count)]
        if signal == "kl":
            scores = [score if kept else 0.0 for score, kept in zip(scores, mask, strict=True)]
        ends = [3 * (step + 1) for step in range(steps)] if signal == "prm" else None
        rollouts.append(
            {"mask": mask, "scores": [float(np.float32(s)) for s in scores], "ends": ends}
            | {"outcome": float(index == 1), "format": float(index < 2)}
        )
    return rollouts


def by_hand(rollout, *, signal, position, count, score):
    """The same rollout with `count` steps more: three tokens each under prm, one under kl."""
    width, elements = (3, len(rollout["scores"])) if signal == "prm" else (1, len(rollout["mask"]))
    after = {"start": 0, "middle": max(1, elements // 2), "end": elements}[position]
    mask = [*rollout["mask"][: after * width], *[True] * (width * count), *rollout["mask"][after * width :]]
    scores = [*rollout["scores"][:after], *[score] * count, *rollout["scores"][after:]]
    ends = [3 * (step + 1) for step in range(len(scores))] if signal == "prm" else None
    return rollout | {"mask": mask, "scores": scores, "ends": ends}


def first_counted(shaped, rollout):
    return shaped.advantages[np.searchsorted(shaped.ends, rollout["mask"].index(True), side="right")]


@pytest.mark.parametrize("signal", ["prm", "kl"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_gives_what_the_oracle_gives_rollouts_padded_by_hand(oracle, estimator, signal):
    group = random_group(signal)
    options = oracle.Options(estimator=estimator, signal=signal, k=0.6)
    config = ShapingConfig(estimator=estimator, signal=signal, k=0.6)
    before = oracle.shape_group(group, options)
    for found in forecast(table(*group), config, levels=given_levels(table(*group), [0.8]), steps=[1, 3]):
        gains = []
        for index, rollout in enumerate(group):
            padded_one = by_hand(
                rollout, signal=signal, position=found.position, count=found.steps, score=float(np.float32(0.8))
            )
            after = oracle.shape_group([*group[:index], padded_one, *group[index + 1 :]], options)[index]
            gains.append(first_counted(after, padded_one) - first_counted(before[index], rollout))
        assert found.total["all"].value == pytest.approx(np.mean(gains), abs=2e-5), found.position


def mean_token_score(group, config):
    """An estimator of one's own that reads steps: each token its rollout's mean score."""
    return [np.full(len(mask), scores.mean()) for mask, scores in zip(group.mask, group.scores, strict=True)]


def test_an_estimator_of_ones_own_is_asked_too():
    rollouts = table(steps_of(1.0, 0.0), steps_of(3.0))
    config = ShapingConfig(estimator=f"{__name__}:mean_token_score", weights=PROCESS_ALONE)
    (found,) = forecast(rollouts, config, levels=given_levels(rollouts, [2.0]), steps=[2], positions=["start"])
    assert found.total["all"].value == pytest.approx(np.mean([(1 + 0 + 4) / 4 - 0.5, (3 + 4) / 3 - 3]))


# -- sides, levels, break-even ---------------------------------------------------------------------------------------


def test_right_and_wrong_rollouts_are_told_apart():
    rollouts = table(steps_of(1.0, 1.0) | {"outcome": 1.0}, steps_of(-1.0, -1.0))
    config = ShapingConfig(standardize="none", k=1.0, weights=Weights(process=1.0, outcome=0.0, format=0.0))
    (found,) = forecast(rollouts, config, levels=given_levels(rollouts, [0.0]), steps=[2], positions=["end"])
    assert found.rollouts == {"all": 2, "right": 1, "wrong": 1}
    assert found.total["right"].value == pytest.approx(-0.5)
    assert found.total["wrong"].value == pytest.approx(0.5)
    assert found.total["all"].value == pytest.approx(0.0)


def test_levels_are_quantiles_of_what_counts():
    masked = {"mask": [True, True, False, True], "scores": [1.0, 2.0, 0.0, 3.0]}
    assert [level.score for level in score_levels(table(masked), (0.0, 0.5, 1.0))] == [1.0, 2.0, 3.0]
    constant = {"mask": [True], "scores": [7.0]}
    assert [level.score for level in score_levels(table(constant))] == [7.0]


def test_padding_pays_from_the_break_even_of_equation_8():
    """K steps of average c: one more of e gives (Kc + e) / (K + 1)^k, which is more than K c / K^k from some e on."""
    K, c, k = 10, 1.0, 0.7
    rollouts = table(steps_of(*[c] * K))
    levels = given_levels(rollouts, [0.0, 2.0])
    found = forecast(rollouts, raw(k), levels=levels, steps=[1], positions=["end"])
    exact = c * K * ((K + 1) ** k / K**k - 1)
    assert pays_from(found, position="end", steps=1) == pytest.approx(exact, rel=1e-5)
    high = forecast(rollouts, raw(k), levels=given_levels(rollouts, [1.0, 2.0]), steps=[1], positions=["end"])
    assert pays_from(high, position="end", steps=1) == 1.0
    low = forecast(rollouts, raw(k), levels=given_levels(rollouts, [-1.0, 0.0]), steps=[1], positions=["end"])
    assert pays_from(low, position="end", steps=1) is None


def test_an_outcome_estimator_pays_nothing_for_padding():
    rollouts = table(steps_of(1.0) | {"outcome": 1.0}, steps_of(0.0))
    for found in forecast(rollouts.drop_columns(["process_scores", "process_ends"]), ShapingConfig(estimator="rloo")):
        assert found.score is None
        assert found.total["all"].value == 0.0


def test_rollouts_that_cannot_be_trained_on_are_not_padded():
    rollouts = table(steps_of(1.0), {"mask": [True], "scores": None, "ends": None})
    (found, *_) = forecast(rollouts, raw(0.0), steps=[1])
    assert found.rollouts["all"] == 1
    assert forecast(rollouts.slice(1), raw(0.0)) == []


# -- padded tables ---------------------------------------------------------------------------------------------------


def test_padding_repeats_the_step_before_in_every_column_and_leaves_other_rows_alone():
    rows = table(
        {"mask": [True, False, True, True], "scores": [1.0, 2.0], "ends": [2, 4]},
        {"mask": [True, True], "scores": [5.0], "ends": [2]},
    )
    rows = rows.append_column("token_ids", pa.array([[10, 11, 12, 13], [20, 21]], pa.list_(pa.int32())))
    rows = rows.append_column("prompt_token_ids", pa.array([[1, 2, 3, 4], [5, 6]], pa.list_(pa.int32())))
    rows = rows.append_column("other_scores", pa.array([[7.0, 8.0, 9.0], [6.0]], pa.list_(pa.float32())))
    rows = rows.append_column("other_ends", pa.array([[1, 3, 4], [2]], pa.list_(pa.int32())))
    made = padded(rows, places(rows, [0], "middle"), steps=2, scores={"process_scores": 0.5, "other_scores": -1.0})
    first, second = made.to_pylist()
    assert first["token_ids"] == [10, 11, 10, 11, 10, 11, 12, 13]
    assert first["loss_mask"] == [True, False, True, True, True, True, True, True]
    assert (first["process_scores"], first["process_ends"]) == ([1.0, 0.5, 0.5, 2.0], [2, 4, 6, 8])
    assert (first["other_scores"], first["other_ends"]) == ([7.0, 8.0, 9.0], [1, 7, 8])  # no end there: it grows
    assert first["prompt_token_ids"] == [1, 2, 3, 4]
    assert second == rows.to_pylist()[1]


def test_a_state_for_each_step_is_copied_with_it():
    """GiGPO's key column: a list as long as process_scores, under a name of its own."""
    rows = table(steps_of(1.0, 2.0), {**steps_of(3.0, 4.0, 5.0), "outcome": 1.0})
    rows = rows.append_column("state", pa.array([["x", "y"], ["x", "z", "y"]]))
    made = padded(rows, places(rows, [0], "end"), steps=2, scores={"process_scores": 0.5})
    assert made["state"].to_pylist() == [["x", "y", "y", "y"], ["x", "z", "y"]]
    assert len(forecast(rows, ShapingConfig(estimator="gigpo"), steps=(1,), levels=given_levels(rows, [0.5]))) == 3


def test_a_null_list_stays_null():
    rows = table(steps_of(1.0, 2.0)).append_column("teacher_logprobs", pa.array([None], pa.list_(pa.float32())))
    made = padded(rows, places(rows, [0], "end"), steps=1, scores={"process_scores": 0.0})
    assert made["teacher_logprobs"].to_pylist() == [None]
    assert shape(made, raw(0.0))["path_score"].to_pylist() == [3.0]


# -- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_over_prompts_is_wider_than_over_rollouts_that_agree():
    """Ten prompts of ten equal rollouts: there are ten independent values, and the normal interval says how wide."""
    generator = np.random.default_rng(3)
    prompt_R = np.repeat(np.arange(40), 10)
    value_R = generator.normal(size=40)[prompt_R]
    found = mean_over_prompts(value_R, prompt_R)
    half = 1.96 * value_R[::10].std() / np.sqrt(40)
    assert found.value == pytest.approx(value_R.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)


def test_draws_are_seeded_and_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    sums_PS = np.arange(14.0).reshape(7, 2)
    whole = draws(sums_PS, count=20, seed=5)
    monkeypatch.setattr("pipelines.inspect.resample._DRAWN_AT_ONCE", 21)
    assert np.array_equal(whole, draws(sums_PS, count=20, seed=5))
    assert not np.array_equal(whole, draws(sums_PS, count=20, seed=6))


def test_a_level_without_a_process_signal_has_no_score():
    assert Level(quantile=0.5, values={}).score is None
