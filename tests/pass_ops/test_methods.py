"""Methods against numbers of their authors' or a trainer's own code (reference/authors.py), or worked by hand."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from pass_ops import Fused, Group, ShapingConfig, Stream, Weights, shape, token_advantages
from pass_ops.errors import EstimatorError, MissingColumnError, OptionError
from pass_ops.methods import rewards, steps, tokens
from pass_ops.options.config import ESTIMATORS
from pass_ops.options.presets import PRESETS
from pass_ops.options.published import PUBLISHED, PublishedName
from pass_ops.support.importing import load_object

THEIRS = json.loads((Path(__file__).parent / "reference" / "authors.json").read_text(encoding="utf-8"))
ROLLOUTS = THEIRS["rollouts"]
OUTCOME = Weights(process=0.0, outcome=1.0, format=0.0)
BOTH = Weights(process=1.0, outcome=1.0, format=0.0)


def table(rollouts, *, process="process", masked=True):
    """What `shape` takes, the signal of that name as the process signal."""
    return pa.table(
        {
            "group_id": [r["group_id"] for r in rollouts],
            "loss_mask": [r["mask"] if masked else [True] * len(r["mask"]) for r in rollouts],
            "process_scores": pa.array([r.get(process, []) for r in rollouts], pa.list_(pa.float32())),
            "process_ends": pa.array([r.get("ends", []) for r in rollouts], pa.list_(pa.int32())),
            "outcome_reward": pa.array([r["outcome"] for r in rollouts], pa.float32()),
            **{name: [r.get(name, []) for r in rollouts] for name in ("token_ids", "entropy")},
        }
    )


def flat(rows, mask=None):
    """One value for each token that counts."""
    kept = [np.asarray(x)[np.asarray(m)] for x, m in zip(rows, mask or [r["mask"] for r in ROLLOUTS], strict=True)]
    return np.concatenate(kept)


def ours(estimator, *, weights=OUTCOME, process="process", masked=True, **options):
    given = table(ROLLOUTS, process=process, masked=masked)
    shaped = shape(given, ShapingConfig(estimator=estimator, weights=weights, **options))
    return flat(token_advantages(shaped).to_pylist(), given["loss_mask"].to_pylist())


def theirs(name, *, masked=True):
    return flat(THEIRS[name], None if masked else [[True] * len(r["mask"]) for r in ROLLOUTS])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("opo", {}),
        ("pass_at_k", {}),
        ("pure", {"weights": BOTH}),
        ("tempo", {"masked": False}),
        ("entropy_top", {}),
        ("gtpo", {"masked": False, "std_ddof": 0, "std_eps": 0.0}),
    ],
)
def test_a_method_gives_the_numbers_of_its_own_code(name, options):
    found = ours(name, **options)
    assert found == pytest.approx(theirs(name, masked=options.get("masked", True)), rel=2e-5, abs=1e-5)


def test_mrpo_gives_the_numbers_of_its_own_code_which_rounds_its_factors():
    found = ours("mrpo", weights=BOTH, process="label", std_eps=1e-4)
    assert found == pytest.approx(theirs("mrpo"), rel=0.005, abs=2e-6)
    assert np.array_equal(np.sign(found), np.sign(theirs("mrpo")))


def test_pass_at_k_over_the_deviation_is_what_verl_does_by_default():
    groups = [group(outcome=[r["outcome"] for r in ROLLOUTS if r["group_id"] == f"q{g}"]) for g in range(7)]
    found = [x for g in groups for x in rewards.pass_at_k(g, ShapingConfig(weights=OUTCOME), divide_by_std=True)]
    expected = [max(x, key=abs) for x in THEIRS["pass_at_k divided by std"]]
    assert found == pytest.approx(expected, rel=1e-5)


def group(*, outcome, lengths=None, scores=None, ends=None, masks=None):
    """A group whose tokens all count unless `masks` says otherwise; one step a rollout unless `ends` says otherwise."""
    lengths = lengths or [1] * len(outcome)
    masks = masks or [[True] * n for n in lengths]
    ends = ends or [[len(m)] for m in masks]
    live = [[any(m[a:b]) for a, b in zip([0, *e], e, strict=False)] for m, e in zip(masks, ends, strict=True)]
    scores = scores or [[0.0] * len(e) for e in ends]
    return Group(
        group_id="q",
        mask=tuple(np.array(m, dtype=np.bool_) for m in masks),
        scores=tuple(np.array(x, dtype=np.float64) for x in scores),
        ends=tuple(np.array(e, dtype=np.int64) for e in ends),
        live=tuple(np.array(x, dtype=np.bool_) for x in live),
        outcome=np.array(outcome, dtype=np.float64),
        format=np.zeros(len(outcome)),
    )


def test_verigate_where_all_are_wrong_worked_by_hand():
    """Scores 1, 0, 2 and 1, 1: to go 3, 2, 2 and 2, 1. Mean 2, squared deviations 1, 0, 0, 0, 1, variance 1/2."""
    wrong = group(outcome=[0, 0], scores=[[1, 0, 2], [1, 1]], ends=[[1, 3, 4], [2, 3]], lengths=[4, 3])
    first, second = steps.verigate(wrong, ShapingConfig(weights=BOTH, std_eps=0.0))
    assert first == pytest.approx([2**0.5, 0, 0, 0])
    assert second == pytest.approx([0, 0, -(2**0.5)])


def test_verigate_leaves_other_groups_to_the_outcome():
    """Right and wrong: mean 1/2, sample deviation sqrt(1/2), so +-sqrt(1/2). All right: 0, whatever the steps."""
    given = {"scores": [[1, 0], [5, 1]], "ends": [[1, 2], [1, 2]], "lengths": [2, 2]}
    config = ShapingConfig(weights=BOTH, std_eps=0.0)
    first, second = steps.verigate(group(outcome=[1, 0], **given), config)
    assert (first, second) == (pytest.approx([0.5**0.5] * 2), pytest.approx([-(0.5**0.5)] * 2))
    assert not np.concatenate(steps.verigate(group(outcome=[1, 1], **given), config)).any()


def test_pav_worked_by_hand():
    """Outcomes 1, 0: centred +-1/2, start 1/2. B(v) = 1 - (1 - v)^2: B(1/2) = 3/4, B(1) = 1, B(0) = 0.

    First rollout, values 1/2, 1: progress 0, 1/4. Second, values 1/2, 0: 0, -3/4. Weight 2.
    """
    values = group(outcome=[1, 0], scores=[[0.5, 1], [0.5, 0]], ends=[[1, 2], [2, 3]], lengths=[2, 3])
    first, second = steps.pav(values, ShapingConfig(weights=Weights(process=2.0, outcome=1.0, format=0.0)), best_of=2)
    assert first == pytest.approx([0.5, 1.0])
    assert second == pytest.approx([-0.5, -0.5, -2.0])


def test_grpo_lambda_worked_by_hand():
    """Decay 1/2, three tokens. "recent": 1 + 1/2 + 1/4, 1 + 1/2, 1. Outcomes 1, 0 standardize to +-sqrt(1/2).

    "both", max(d^(t - j), d^j): j = 0: 1 + 1 + 1; j = 1: 1 + 1/2; j = 2: 1.
    """
    given, config = group(outcome=[1, 0], lengths=[3, 1]), ShapingConfig(weights=OUTCOME, std_eps=0.0)
    first, second = rewards.grpo_lambda(given, config, decay=0.5)
    assert first == pytest.approx(0.5**0.5 * np.array([1.75, 1.5, 1.0]))
    assert second == pytest.approx([-(0.5**0.5)])
    assert rewards.grpo_lambda(given, config, decay=0.5, both=True)[0] == pytest.approx(
        0.5**0.5 * np.array([3, 1.5, 1])
    )


@pytest.mark.parametrize("both", [False, True])
def test_grpo_lambda_is_the_gradient_of_the_papers_objective_where_ratios_are_one(both):
    """Eq. 2: ratio_t = exp(sum over j <= t of tr(t, j) l_j), l the log ratios of the tokens that count."""
    decay, mask = 0.9, [True, True, False, True, True, True, False, True]
    (found, _) = rewards.grpo_lambda(
        group(outcome=[1, 0], masks=[mask, [True]]), ShapingConfig(weights=OUTCOME), decay=decay, both=both
    )
    advantage, n = rewards.grpo_lambda(group(outcome=[1, 0]), ShapingConfig(weights=OUTCOME), decay=decay)[0][0], 6

    def objective(logs):
        traces = [
            sum(
                (max(decay ** (t - j), decay**j) if both and j < t else decay ** (t - j)) * logs[j]
                for j in range(t + 1)
            )
            for t in range(n)
        ]
        return advantage * np.exp(traces).sum()

    step = 1e-6 * np.eye(n)
    gradient = [(objective(step[j]) - objective(-step[j])) / 2e-6 for j in range(n)]
    assert found[np.array(mask)] == pytest.approx(gradient, rel=1e-6)
    assert not found[~np.array(mask)].any()


def test_pure_tends_to_the_minimum_of_the_scores():
    """T -> 0: all credit at the lowest step. Alone in its group a rollout has no baseline: -1, -1, 0 to go."""
    alone = group(outcome=[1], scores=[[2, -1, 3]], ends=[[1, 2, 4]], lengths=[4])
    (found,) = steps.pure(alone, ShapingConfig(weights=BOTH), temperature=1e-3)
    assert found == pytest.approx([-1, -1, 0, 0], abs=1e-12)


def test_pure_of_single_tokens_worked_by_hand():
    """Alone in its rollout a score is its min-form. Baselines 1/4 and 1/2 a token; rewards 1 and 0 less the other's."""
    first, second = steps.pure(group(outcome=[1, 0], scores=[[0.5], [0.25]]), ShapingConfig(weights=BOTH))
    assert (first, second) == (pytest.approx([1.25]), pytest.approx([-1.25]))


def test_mrpo_worked_by_hand():
    """At the bounds a rollout is wrong and a step invalid: exp(1 - j / 2) at the three steps. Outcomes 1, 1/2: N is

    +-sqrt(1/2).
    """
    given = group(outcome=[1, 0.5], scores=[[1], [0.25, 0.125, 0.5]], ends=[[1], [1, 2, 3]], lengths=[1, 3])
    config = ShapingConfig(weights=BOTH, std_eps=0.0)
    _, invalid = steps.mrpo(given, config, right_above=0.5, valid_above=0.5)
    assert invalid == pytest.approx(-(0.5**0.5) * np.exp([1, 0.5, 0]))
    _, valid = steps.mrpo(given, config, right_above=0.5, valid_above=0.25)
    assert valid == pytest.approx(0.5**0.5 * np.array([-np.exp(1), -np.exp(0.5), 1]))


def test_a_single_step_of_a_wrong_rollout_under_mrpo():
    given = group(outcome=[1, 0, 0], scores=[[1], [1], [0]])
    right, valid, invalid = (x[0] for x in steps.mrpo(given, ShapingConfig(weights=BOTH)))
    assert right > 0
    assert valid > 0
    assert invalid == -valid


def preset_table(name):
    """The table that the method of this name reads."""
    if name == "papo":
        one_a_rollout = pa.array([r["quality"] for r in ROLLOUTS], pa.float32())
        rest = table(ROLLOUTS).drop_columns(["process_scores", "process_ends"])
        return rest.append_column("process_reward", one_a_rollout)
    if name == "saf_opd":
        return table(ROLLOUTS, process="opd").drop_columns("process_ends")
    given = table(ROLLOUTS, process="value" if name == "vineppo" else "process")
    return given.append_column("state", [[r["state"] for r in ROLLOUTS]])


STREAMED = ("reinforce_pp", "reinforce_pp_baseline", "max_rl", "papo", "vineppo", "gigpo", "saf_opd")


@pytest.mark.parametrize("name", STREAMED)
def test_a_method_of_streams_gives_the_numbers_of_its_own_code(name):
    shaped = shape(preset_table(name), ShapingConfig(estimator=name))
    assert flat(token_advantages(shaped).to_pylist()) == pytest.approx(theirs(name), rel=2e-5, abs=1e-5)


def test_gigpo_divided_by_the_deviation_is_the_authors_other_mode():
    streams = {
        name: replace(stream, operator="masked_norm")
        for name, stream in ShapingConfig(estimator="gigpo").streams.items()
    }
    shaped = shape(preset_table("gigpo"), ShapingConfig(streams=streams, divide=False))
    assert flat(token_advantages(shaped).to_pylist()) == pytest.approx(theirs("gigpo divided by std"), abs=1e-5)


def test_gdpo_of_three_rewards_whitened_over_the_data_set():
    given = table(ROLLOUTS)
    for name in ("format", "quality"):
        given = given.append_column(f"{name}_reward", pa.array([r[name] for r in ROLLOUTS], pa.float32()))
    weights = {"outcome": 1.0, "format": 0.5, "quality": 0.25}
    config = ShapingConfig(
        streams={name: Stream(signal=name, weight=weight) for name, weight in weights.items()},
        fused=Fused(operator="masked_norm", pool="dataset", per="token"),
        divide=False,
    )
    assert flat(token_advantages(shape(given, config)).to_pylist()) == pytest.approx(theirs("gdpo"), abs=1e-5)
    two = {name: stream for name, stream in config.streams.items() if name != "quality"}
    named = ShapingConfig(estimator="gdpo_batch", weights=Weights(outcome=1.0, format=0.5))
    assert named == replace(config, streams=two)


def test_capo_worked_by_hand():
    """Right, second step wrong: 2, 2, 1. Wrong, its step right: 0. Mean 5/4; deviations 3/4, 3/4, -1/4, -5/4 of squares

    9/16, 9/16, 1/16, 25/16, sum 44/16, sample variance 11/12.
    """
    given = pa.table(
        {
            "group_id": ["q", "q"],
            "loss_mask": [[True] * 3, [True]],
            "process_scores": pa.array([[1.0, 0.0], [1.0]], pa.list_(pa.float32())),
            "process_ends": pa.array([[2, 3], [1]], pa.list_(pa.int32())),
            "outcome_reward": pa.array([1.0, 0.0], pa.float32()),
        }
    )
    (first, second) = token_advantages(shape(given, ShapingConfig(estimator="capo", std_eps=0.0))).to_pylist()
    assert [*first, *second] == pytest.approx(np.array([0.75, 0.75, -0.25, -1.25]) / (11 / 12) ** 0.5)


def test_gpg_is_dr_grpo_times_one_number():
    """verl multiplies with all rollouts over those of a reward other than 0."""
    right = sum(r["outcome"] != 0 for r in ROLLOUTS)
    assert ours("dr_grpo") * len(ROLLOUTS) / right == pytest.approx(theirs("gpg as verl scales it"), abs=1e-5)


class TestPresets:
    def test_every_method_is_streams_or_a_function(self):
        assert set(PRESETS) == {name for name, method in PUBLISHED.items() if method.function is None}

    @pytest.mark.parametrize("name", PRESETS)
    def test_the_name_is_the_streams(self, name):
        named = ShapingConfig(estimator=name)
        preset = PRESETS[name]
        chunk = True if preset.chunk is None else preset.chunk
        assert named == ShapingConfig(streams=preset.streams, fused=preset.fused, divide=False, chunk=chunk)
        assert ShapingConfig.from_plain(named.plain()) == named

    def test_weights_multiply_those_of_the_streams(self):
        config = ShapingConfig(estimator="saf_opd", weights=Weights(process=0.5, outcome=2.0), signal="kl")
        assert {name: stream.weight for name, stream in config.streams.items()} == {"outcome": 2.0, "process": 0.05}
        assert list(ShapingConfig(estimator="papo", weights=Weights(process=0.0)).streams) == ["outcome"]

    def test_streams_besides_are_refused(self):
        with pytest.raises(OptionError) as raised:
            ShapingConfig(estimator="papo", streams={"outcome": Stream(signal="outcome")})
        assert str(raised.value) == (
            "option streams: estimator 'papo' stands for streams of its own; leave one of the two out "
            "(`passrl options` and docs/reference/methods.md show the streams, to change them)"
        )


class TestMethodOptions:
    def test_they_are_the_functions_keywords(self):
        config = ShapingConfig(estimator="pass_at_k", weights=OUTCOME, method_options={"divide_by_std": True})
        found = flat(token_advantages(shape(table(ROLLOUTS), config)).to_pylist())
        assert found == pytest.approx(theirs("pass_at_k divided by std"), rel=1e-5)

    def test_without_any_the_plain_options_are_those_of_before(self):
        assert "method_options" not in ShapingConfig(estimator="pure").plain()
        assert ShapingConfig(method_options={}) == ShapingConfig()

    @pytest.mark.parametrize(
        ("estimator", "options", "message"),
        [
            ("pure", {"temprature": 1.0}, "option method_options: estimator 'pure' has no keyword 'temprature'; "),
            ("pass", {"k": 1.0}, "option method_options: estimator 'pass' has no keyword 'k'; leave method_opt"),
            ("pure", {"temperature": "hot"}, "option method_options.temperature: expected a finite number"),
            ("entropy_top", {"keep": 1.5}, "option method_options.keep: expected a finite number from 0 to 1, got 1.5"),
            ("grpo_lambda", {"both": 1}, "option method_options.both: expected True or False, got 1; give a bool"),
        ],
    )
    def test_wrong_ones_are_named(self, estimator, options, message):
        with pytest.raises(OptionError, match=f"^{re.escape(message)}"):
            ShapingConfig(estimator=estimator, method_options=options)


class TestTheTable:
    def test_its_names_are_the_literals(self):
        assert set(PUBLISHED) == set(get_args(PublishedName))
        assert not set(PUBLISHED) & set(ESTIMATORS)

    def test_it_names_the_code_that_the_numbers_come_from(self):
        found = {name: method.against for name, method in PUBLISHED.items() if "@" in method.against}
        sources = {{"gdpo": "gdpo_batch"}.get(name, name): source for name, source in THEIRS["sources"].items()}
        assert set(found) == set(sources) - {"gpg"}
        for name, against in found.items():
            (repository, path), (theirs, full) = against.split(" "), sources[name].split(" ")
            assert repository == theirs
            assert full.endswith(path.removeprefix("..."))

    @pytest.mark.parametrize("name", [name for name, method in PUBLISHED.items() if method.function])
    def test_the_options_of_a_function_are_its_keywords(self, name):
        method = PUBLISHED[name]
        parameters = inspect.signature(load_object(method.function)).parameters.values()
        keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert {key: option.default for key, option in method.options.items()} == keywords
        assert all(option.low <= option.default <= option.high for option in method.options.values())


ALL = [rewards.opo, rewards.pass_at_k, rewards.grpo_lambda, steps.pure, steps.verigate, steps.mrpo, steps.pav]
ALL += [tokens.tempo, tokens.entropy_top, tokens.gtpo]


@pytest.mark.parametrize("method", ALL, ids=lambda f: f.__name__)
class TestEveryMethod:
    def table(self, method, rows):
        return table(rows, process=self.signal(method))

    def signal(self, method):
        return "value" if method is steps.pav else "process"

    def shaped(self, method, given):
        return shape(given, ShapingConfig(estimator=method.__name__, weights=BOTH))

    def test_what_is_masked_changes_nothing_and_gets_nothing(self, method):
        """Other scores and entropies where nothing counts; token ids make up TEMPO's tree even where masked."""
        rows = [dict(r) for r in ROLLOUTS]
        for r in rows:
            ends, mask = r["ends"], r["mask"]
            live = [any(mask[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
            name = self.signal(method)
            r[name] = [x if alive else 0.875 for x, alive in zip(r[name], live, strict=True)]
            r["entropy"] = [h if counts else 7.0 for h, counts in zip(r["entropy"], mask, strict=True)]
        tables = (self.table(method, x) for x in (ROLLOUTS, rows))
        before, after = (token_advantages(self.shaped(method, x)).to_pylist() for x in tables)
        assert np.array_equal(flat(before), flat(after))

    def test_a_table_in_pieces_is_the_table(self, method):
        given = self.table(method, ROLLOUTS)
        whole = self.shaped(method, given)
        cut = pa.concat_tables([given.slice(0, 3), given.slice(3, 4), given.slice(7)])
        assert token_advantages(self.shaped(method, cut)).to_pylist() == token_advantages(whole).to_pylist()

    def test_rollouts_of_one_empty_and_fully_masked_are_taken(self, method):
        one = {**ROLLOUTS[0], "group_id": "one"}
        length = len(ROLLOUTS[1]["mask"])
        masked = {**ROLLOUTS[1], "group_id": "two", "mask": [False] * length}
        empty = {"group_id": "two", "outcome": 1.0, "mask": []}
        shaped = self.shaped(method, self.table(method, [one, masked, empty, {**ROLLOUTS[2], "group_id": "two"}]))
        assert shaped["trainable"].to_pylist() == [True, False, False, True]
        assert all(np.isfinite(x).all() for x in token_advantages(shaped).to_pylist())


class TestFurtherColumns:
    path = "tempo"

    def shape(self, given):
        return shape(given, ShapingConfig(estimator=self.path, weights=OUTCOME))

    def test_a_rollout_without_them_is_out_of_its_group(self):
        given = table(ROLLOUTS)
        ids = given["token_ids"].to_pylist()
        holes = given.set_column(given.schema.get_field_index("token_ids"), "token_ids", pa.array([None, *ids[1:]]))
        found = self.shape(holes)
        assert found["trainable"].to_pylist()[:2] == [False, True]
        assert not flat(token_advantages(found).to_pylist()[:2], [r["mask"] for r in ROLLOUTS[:2]]).any()

    def test_what_stands_at_masked_tokens_may_be_anything(self):
        rows = [{**r, "entropy": np.where(r["mask"], r["entropy"], np.nan).tolist()} for r in ROLLOUTS]
        config = ShapingConfig(estimator="gtpo", weights=OUTCOME)
        found, expected = (token_advantages(shape(table(x), config)).to_pylist() for x in (rows, ROLLOUTS))
        assert np.array_equal(flat(found), flat(expected))

    def test_a_missing_one_is_named(self):
        with pytest.raises(MissingColumnError, match="'token_ids' is missing: estimator 'tempo'"):
            self.shape(table(ROLLOUTS).drop_columns("token_ids"))

    @pytest.mark.parametrize(
        ("entropy", "says"),
        [
            ([1.0, None], "rollout 0 of the group: entropy is nan at token 1, which counts"),
            (
                [float("inf"), 1.0],
                "rollout 0 of the group: entropy is inf at token 0, which counts; it would spoil its whole group; make "
                "the whole list null where it could not be computed$",
            ),
            ([1.0], "rollout 0 of the group: entropy has 1 values for 2 completion tokens; give one for each token"),
        ],
    )
    def test_a_wrong_one_is_named(self, entropy, says):
        given = pa.table(
            {
                "group_id": ["q", "q"],
                "loss_mask": [[True, True], [True, True]],
                "outcome_reward": pa.array([1.0, 0.0], pa.float32()),
                "entropy": [entropy, [1.0, 2.0]],
            }
        )
        with pytest.raises(EstimatorError) as raised:
            shape(given, ShapingConfig(estimator="gtpo", weights=OUTCOME))
        assert says in str(raised.value) + "$"
