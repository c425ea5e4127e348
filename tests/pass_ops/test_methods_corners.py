"""Every published method in the corners: alone, all alike, nothing that counts, several turns, a null, sizes, types."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from pass_ops.errors import EstimatorError, OptionError, ShapingError
from pass_ops.methods.common import masked_norm
from pass_ops.options.published import PUBLISHED

#: what a method reads besides the outcome
READS = {
    **dict.fromkeys(("pure", "papo", "verigate", "capo", "mrpo", "vineppo", "pav", "saf_opd"), "process"),
    "gigpo": "state",
    "tempo": "token_ids",
    "entropy_top": "entropy",
    "gtpo": "entropy",
}
WHITENED = ("gdpo_batch", "reinforce_pp", "reinforce_pp_baseline")  # over all groups of the table
BY_TOKEN = ("saf_opd",)
FLOAT32 = pa.float32()
EVERY = pytest.mark.parametrize("name", PUBLISHED)


def rollout(rng, *, outcome=None, group="q"):
    """Some tokens of several turns: masked ones between those that count; perhaps none that counts."""
    length = rng.randint(1, 9)
    ends = sorted({*rng.sample(range(1, length), rng.randint(0, min(3, length - 1))), length})
    return {
        "group_id": group,
        "outcome": float(rng.randint(0, 1)) if outcome is None else outcome,
        "format": float(rng.randint(0, 1)),
        "mask": [rng.random() > 0.3 for _ in range(length)],
        "ends": ends,
        "process": [rng.randint(0, 8) / 8 for _ in ends],
        "by_token": [rng.randint(-24, 24) / 8 for _ in range(length)],
        "state": [rng.choice("ab") for _ in ends],
        "token_ids": [rng.randint(1, 2) for _ in range(length)],
        "entropy": [rng.randint(1, 64) / 32 for _ in range(length)],
    }


def of_one_token(tokens=1):
    """A right rollout of one step, of so many tokens."""
    row = {"group_id": "q", "outcome": 1.0, "format": 0.0, "mask": [True] * tokens, "ends": [tokens], "process": [0.5]}
    row |= {"state": ["a"], "by_token": [0.0] * tokens, "token_ids": [1] * tokens, "entropy": [1.0] * tokens}
    return row


def shaped(rows, name, *, number=FLOAT32, **options):
    """The advantages of the tokens that count, by rollout."""
    lists = pa.list_(number)
    given = {
        "group_id": [r["group_id"] for r in rows],
        "loss_mask": pa.array([r["mask"] for r in rows], pa.list_(pa.bool_())),
        "outcome_reward": pa.array([r["outcome"] for r in rows], number),
        "format_reward": pa.array([r["format"] for r in rows], number),
        "process_scores": pa.array([r["by_token" if name in BY_TOKEN else "process"] for r in rows], lists),
        "state": pa.array([r["state"] for r in rows], pa.list_(pa.string())),
        "token_ids": pa.array([r["token_ids"] for r in rows], pa.list_(pa.int32())),
        "entropy": pa.array([r["entropy"] for r in rows], lists),
    }
    if name not in BY_TOKEN:
        given["process_ends"] = pa.array([r["ends"] for r in rows], pa.list_(pa.int32()))
    weights = Weights(process=1.0, outcome=1.0, format=float(name == "gdpo_batch"))
    config = ShapingConfig(estimator=name, weights=weights, **options)
    found = token_advantages(shape(pa.table(given), config, threads=1)).to_pylist()
    return [np.array(x)[np.array(r["mask"], dtype=np.bool_)] for x, r in zip(found, rows, strict=True)]


def groups(number=12):
    rng = random.Random(7)
    return [[rollout(rng) for _ in range(rng.randint(1, 5))] for _ in range(number)]


def same(found, expected, *, to=0.0):
    return all(x == pytest.approx(y, rel=to, abs=to) for x, y in zip(found, expected, strict=True))


@EVERY
def test_a_rollout_without_a_signal_changes_nobody(name):
    rng = random.Random(1)
    for rows in groups():
        expected = shaped(rows, name)
        for lacking in {"outcome", READS.get(name, "outcome")}:
            key = "by_token" if name in BY_TOKEN and lacking == "process" else lacking
            first = {**rollout(rng), key: None}
            alone, *others = shaped([first, *rows], name)
            assert not alone.any()
            assert same(others, expected, to=1e-6)


@EVERY
def test_tokens_that_do_not_count_might_as_well_not_be_there(name):
    """But for TEMPO, whose prefixes hold them, and GTPO, whose places count them."""
    if name in ("tempo", "gtpo"):
        pytest.skip("masked tokens are part of its prefixes, or places")
    for rows in groups():
        assert same(shaped(list(map(without_masked, rows)), name), shaped(rows, name), to=1e-5)


def without_masked(r):
    kept = [t for t, counts in enumerate(r["mask"]) if counts]
    steps = [(a, b) for a, b in zip([0, *r["ends"]], r["ends"], strict=False)]
    live = [j for j, (a, b) in enumerate(steps) if any(r["mask"][a:b])]
    return {
        **r,
        "mask": [True] * len(kept),
        "ends": [sum(r["mask"][: r["ends"][j]]) for j in live],
        **{key: [r[key][j] for j in live] for key in ("process", "state")},
        **{key: [r[key][t] for t in kept] for key in ("by_token", "token_ids", "entropy")},
    }


@EVERY
def test_the_order_of_rollouts_is_nothing_but_an_order(name):
    """Pass@k credits the first of equal best ones."""
    rng = random.Random(2)
    for rows in groups():
        for n, r in enumerate(rows):
            r["outcome"] += n / 16 if name == "pass_at_k" else 0.0
        order = rng.sample(range(len(rows)), len(rows))
        found, expected = shaped([rows[i] for i in order], name), shaped(rows, name)
        assert same(found, [expected[i] for i in order], to=1e-5)


@EVERY
def test_another_group_changes_nothing(name):
    if name in WHITENED:
        pytest.skip("whitened over the data set")
    rng = random.Random(3)
    for rows in groups():
        others = [rollout(rng, group="r") for _ in range(3)]
        assert same(shaped(rows + others, name)[: len(rows)], shaped(rows, name))


@EVERY
def test_float64_columns_give_the_same_bits(name):
    for rows in groups():
        assert same(shaped(rows, name, number=pa.float64()), shaped(rows, name))


@EVERY
@pytest.mark.parametrize("outcome", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("rollouts", [1, 4])
def test_where_nothing_differs_nobody_learns(name, outcome, rollouts):
    """One step with the score of all, entropies of all: also without an epsilon that would hide a rounding."""
    rng = random.Random(4)
    row = rollout(rng, outcome=outcome)
    row |= {"mask": [True] * 3, "ends": [3], "process": [outcome], "state": ["a"], "by_token": [0.0] * 3}
    row |= {"token_ids": [1, 2, 1], "entropy": [0.7] * 3, "format": 0.0}
    found = np.concatenate(shaped([row] * rollouts, name, std_eps=0.0))
    if name == "pure":  # its process part: the score less the others' per token, at every step to come
        found = found - (outcome if rollouts == 1 else 0.0)
    assert abs(found).max() <= 1e-7


@EVERY
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e8, 1e20, 3e37, 3.4e38])
def test_sizes_give_numbers_or_a_named_error(name, scale):
    rng = random.Random(5)
    rows = [rollout(rng, outcome=float(np.float32(x * scale))) for x in (0, 1, -1, 0.5)]
    for r in rows:
        r |= {key: list(np.clip(np.multiply(r[key], scale), -3.4e38, 3.4e38)) for key in ("process", "by_token")}
        r["entropy"] = list(np.minimum(np.multiply(r["entropy"], scale), 3.4e38))
    try:
        with np.errstate(all="raise", under="ignore"):
            found, says = np.concatenate(shaped(rows, name)), ""
    except ShapingError as error:
        found, says = np.zeros(0), str(error)
    assert np.isfinite(found).all()
    assert not says or "beyond float32" in says or "no probability" in says


@EVERY
def test_a_group_in_which_no_token_counts(name):
    for rows in groups():
        masked = [{**r, "mask": [False] * len(r["mask"])} for r in rows]
        with np.errstate(all="raise", under="ignore"):
            assert not any(len(x) for x in shaped(masked, name))


@pytest.mark.parametrize("name", [name for name, method in PUBLISHED.items() if method.options])
def test_keywords_that_are_not_given_are_those_of_the_table(name):
    given = {key: option.default for key, option in PUBLISHED[name].options.items()}
    for rows in groups():
        assert same(shaped(rows, name, method_options=given), shaped(rows, name))


def test_a_reward_is_outcome_and_format_by_their_weights():
    """x = 2 * 1 + 3 * 0 and 2 * 0 + 3 * 1, one token each: mean 5/2."""
    given = {"outcome_reward": [1.0, 0.0], "format_reward": [0.0, 1.0], "group_id": ["q"] * 2}
    config = ShapingConfig(estimator="opo", weights=Weights(outcome=2.0, format=3.0))
    shaped = shape(pa.table({**given, "loss_mask": [[True], [True]]}), config)
    assert token_advantages(shaped).to_pylist() == [[-0.5], [0.5]]


def test_standardized_rewards_have_the_epsilon_in_the_divisor():
    """1 and 0: deviation sqrt(1/2) of a sample, 1/2 of a population."""
    for ddof, deviation in ((1, 0.5**0.5), (0, 0.5)):
        config = ShapingConfig(std_eps=1.0, std_ddof=ddof)
        assert masked_norm(np.array([1.0, 0.0]), config) == pytest.approx(np.array([0.5, -0.5]) / (deviation + 1))


def test_pure_without_the_process_signal_is_rloo():
    rows = [{**r, "mask": [True] * len(r["mask"])} for r in groups()[1]]
    given = {"group_id": ["q"] * len(rows), "loss_mask": [r["mask"] for r in rows]}
    given["outcome_reward"] = [float(n) for n in range(len(rows))]
    weights = Weights(process=0.0, format=0.0)
    pure, rloo = (shape(pa.table(given), ShapingConfig(estimator=e, weights=weights)) for e in ("pure", "rloo"))
    assert same(token_advantages(pure).to_pylist(), token_advantages(rloo).to_pylist(), to=1e-6)


class TestOneMethod:
    def test_opo_of_equal_rewards_is_exactly_nothing(self):
        """0.7 is no float, and sums of it round: (0.7 + 2 * 0.7) / 3 would be another number."""
        masks = [[True], [True, True]]
        given = pa.table({"group_id": ["q"] * 2, "loss_mask": masks, "outcome_reward": [1.0, 1.0]})
        config = ShapingConfig(estimator="opo", weights=Weights(outcome=0.7, format=0.0))
        assert not token_advantages(shape(given, config)).values.to_numpy().any()

    def test_tempo_adds_the_epsilon_to_the_deviation(self):
        """Rewards 3 and 1: sqrt(2) of a sample."""
        rows = [{**of_one_token(2), "outcome": outcome, "token_ids": [1, n]} for n, outcome in enumerate((3.0, 1.0))]
        with_one, without = (np.concatenate(shaped(rows, "tempo", std_eps=eps)) for eps in (1.0, 0.0))
        assert with_one == pytest.approx(without * 2**0.5 / (2**0.5 + 1))
        assert without == pytest.approx(np.array([1, 2, -1, -2]) / 2**0.5)

    def test_pass_at_k_over_the_deviation_worked_by_hand(self):
        """Rewards 3 and 1: variance 2 of a sample, 2 / (sqrt(2) + 1)."""
        rows = [{**of_one_token(), "outcome": outcome} for outcome in (3.0, 1.0)]
        divided = {"method_options": {"divide_by_std": True}}
        best, other = shaped(rows, "pass_at_k", std_eps=1.0, **divided)
        assert (best[0], other[0]) == (pytest.approx(2 / (2**0.5 + 1)), 0.0)
        with np.errstate(all="raise"):
            assert not any(x.any() for x in shaped(rows[:1] * 2, "pass_at_k", std_eps=0.0, **divided))

    def test_verigate_where_wrong_outcomes_differ_leaves_them_in_charge(self):
        rows = groups(1)[0][:1] * 2
        worse = {**rows[1], "outcome": -1.0, "process": [1.0] * len(rows[1]["process"])}
        better, worse = shaped([{**rows[0], "outcome": 0.0}, worse], "verigate", std_eps=0.0)
        assert (better == pytest.approx(0.5**0.5)) & (worse == pytest.approx(-(0.5**0.5)))

    @pytest.mark.parametrize("outcome", [0.0, 1.0])
    def test_gtpo_of_one_rollout_is_exactly_nothing(self, outcome):
        """Alone at each of its places its share is 1, whatever the entropy; H * (1 / H) may be another number, and that
        difference, divided by itself, would be an advantage."""
        row = {**groups(1)[0][0], "outcome": outcome, "ends": [50], "process": [0.0], "state": ["a"]}
        row |= {"mask": [True] * 50, "by_token": [0.0] * 50, "token_ids": [1] * 50}
        row["entropy"] = np.random.default_rng(0).uniform(0.01, 3, 50).tolist()
        if outcome == 0.0:
            row["entropy"][0] = 0.0
        options = {"std_eps": 0.0, "method_options": {"reward_share": 0.0}}
        assert not shaped([row], "gtpo", **options)[0].any()

    def test_gtpo_half_right_is_wrong(self):
        """With a2 = 0 wrong ones are alike, and right ones differ by their outcomes: 1 and 2, deviation sqrt(1/2)."""
        rows = [{**of_one_token(), "outcome": outcome} for outcome in (0.5, 0.0, 1.0, 2.0)]
        found = np.concatenate(shaped(rows, "gtpo", method_options={"entropy_share": 0.0}, std_eps=1.0))
        assert found == pytest.approx(np.array([0, 0, -0.5, 0.5]) / (1 + 0.5**0.5))

    def test_gtpo_of_wrong_rollouts_worked_by_hand(self):
        """Entropies 1 and 3: shares 3/4 and 1/4 of 4/3, rewards -1 - 2 * 3/4 and -1 - 2 * 1/4, deviation sqrt(1/2)."""
        rows = [{**of_one_token(), "outcome": 0.0, "entropy": [entropy]} for entropy in (1.0, 3.0)]
        found = np.concatenate(shaped(rows, "gtpo", method_options={"entropy_share": 1.0}, std_eps=1.0))
        assert found == pytest.approx(np.array([-0.5, 0.5]) / (1 + 0.5**0.5))

    @pytest.mark.parametrize("name", ["gtpo", "entropy_top"])
    def test_log_probabilities_are_no_entropies(self, name):
        wrong = {**of_one_token(3), "mask": [False, True, True], "entropy": [-3.0, 1.0, -0.5]}
        with pytest.raises(EstimatorError) as raised:
            shaped([of_one_token(), wrong], name)
        assert str(raised.value) == (
            "rollout 1 of the group: entropy is -0.5 at token 2, which counts; an entropy is at least 0, and "
            "log-probabilities in its place would turn the credit round; store entropies "
            "(generate.sampling.token_statistics)"
        )

    @pytest.mark.parametrize("rounded", [-1e-6, -1e-3])
    def test_an_entropy_that_rounding_leaves_below_zero_is_zero(self, rounded):
        given = [[{**r, "entropy": [h, *r["entropy"][1:]]} for r in groups(1)[0]] for h in (0.0, rounded)]
        first, second = (shaped(rows, "gtpo", number=pa.float64()) for rows in given)
        assert same(first, second)

    @pytest.mark.parametrize(
        ("key", "value"), [("process", 1.5), ("process", -0.25), ("outcome", -1.0), ("outcome", 2.0)]
    )
    def test_pav_takes_probabilities(self, key, value):
        wrong = {**of_one_token(), key: value}
        if key == "process":  # the second step's: the first one's is a probability
            wrong = {**of_one_token(2), "process": [0.5, value], "ends": [1, 2], "state": ["a"] * 2}
        called = {"process": "process score"}.get(key, key)
        with pytest.raises(EstimatorError) as raised:
            shaped([of_one_token(), wrong], "pav")
        assert str(raised.value) == (
            f"rollout 1 of the group: {called} {value:g} is no probability, and then neither is 1 - (1 - v)^n; give "
            "numbers from 0 to 1: values of the signal monte_carlo, and outcomes of 0 and 1"
        )

    @pytest.mark.parametrize(
        ("name", "weight", "lost"),
        [
            ("verigate", "outcome", "every rollout would count as wrong"),
            ("mrpo", "outcome", "every rollout would count as wrong"),
            ("mrpo", "process", "no step would be valid or invalid"),
            ("pav", "outcome", "every rollout would count as wrong"),
            ("gtpo", "outcome", "every rollout would count as wrong"),
        ],
    )
    def test_a_stream_that_is_asked_about_may_not_be_left_out(self, name, weight, lost):
        says = f"^option weights.{weight}: estimator '{name}' asks about {weight} by itself, and weight 0 .* {lost}; "
        with pytest.raises(OptionError, match=says):
            ShapingConfig(estimator=name, weights=Weights(**{weight: 0.0}))
