"""One planted defect a finding; the same dataset without it gives none."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from dataclasses import astuple, fields, replace

import pytest

from pass_ops import Standardizers, Stream, Transform, Weights, token_advantages
from pipelines.cli.parser import main
from pipelines.inspect.lint import facts
from pipelines.inspect.lint.checks import lint, lint_facts
from pipelines.inspect.lint.facts import Facts, add_part, gather
from pipelines.inspect.lint.findings import LintOptions
from pipelines.inspect.moments import Moments, Pairs
from pipelines.options import ConfigError, build
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.shaped.stage import ShapeOptions

STEPS = ShapeOptions(process="steps", outcome="verifier", format="format")
GROUPS = 30


@pytest.fixture
def healthy(row):
    """healthy(change): 30 groups of 4, half right, noisy process scores that point the right way, formats that vary.

    change(row) may spoil rows, or return None to drop one.
    """

    def make(change=lambda row: row):
        chance = random.Random(5)
        rows = []
        for group in range(GROUPS):
            for index in range(4):
                steps = chance.choice([2, 3, 4])
                right = index % 2 == 0
                well_formed = index != group % 4
                rows.append(
                    row(
                        f"g{group}/{index}",
                        2 * steps,
                        process_scores=[chance.gauss(0.8 if right else 0.2, 0.4) for _ in range(steps)],
                        process_ends=list(range(2, 2 * steps + 1, 2)),
                        outcome_reward=float(right),
                        format_reward=1.0 if well_formed else 0.5,
                        behavior_logprobs=[-chance.random() for _ in range(2 * steps)],
                    )
                )
        return [spoiled for spoiled in map(change, rows) if spoiled is not None]

    return make


def codes(findings):
    return {finding.code: finding.severity for finding in findings}


def share(row, part: float) -> bool:
    """Whether a row's group is among the first `part` of the groups."""
    return int(row["group_id"][1:]) < part * GROUPS


def where(condition, **values):
    """A change that sets columns of the rows that meet the condition."""
    return lambda row: row | values if condition(row) else row


def test_a_healthy_dataset_gives_no_finding(store_run, healthy):
    assert lint(store_run(healthy()).shaped.url) == []


def test_small_parts_looked_at_together_are_what_each_is_alone(store_run, healthy, monkeypatch):
    rows = healthy(where(lambda row: share(row, 0.4), finish_reason="length", outcome_reward=0.0))
    run = store_run(*(rows[first : first + 8] for first in range(0, len(rows), 8)))
    together = gather(run.shaped)
    seen: list[int] = []
    monkeypatch.setattr(facts, "_JOINED_BYTES", 0)
    monkeypatch.setattr(facts, "add_part", lambda found, table: seen.append(len(table)) or add_part(found, table))
    alone = gather(run.shaped)
    assert seen == [8] * 15
    for item in fields(Facts):
        one, other = getattr(together, item.name), getattr(alone, item.name)
        if item.name in ("spread", "process_outcome", "pay"):
            assert one.keys() == other.keys()
            for name in one:
                assert numbers(one[name]) == pytest.approx(numbers(other[name]), rel=1e-12, abs=1e-12)
        else:
            assert one == other, item.name


def numbers(moments: Moments | Pairs) -> tuple[float, ...]:
    return astuple(moments.pairs if isinstance(moments, Moments) else moments)


def test_parts_are_summed_up(store_run, healthy):
    rows = healthy()
    halved = store_run(rows[:60], rows[60:])
    assert lint(halved.shaped.url) == []


NULL_OUTCOME = {"outcome_reward": None}
DEFECTS = {
    "zero_variance_groups": (where(lambda r: share(r, 0.6), outcome_reward=1.0, verify_status="ok"), "warning"),
    "partial_groups": (lambda r: None if share(r, 0.2) and r["sample_index"] == 3 else r, "warning"),
    "singletons": (lambda r: None if share(r, 0.05) and r["sample_index"] > 0 else r, "warning"),
    "verifier_errors": (where(lambda r: share(r, 0.05), **NULL_OUTCOME, verify_status="error"), "warning"),
    "verifier_timeouts": (where(lambda r: share(r, 0.05), **NULL_OUTCOME, verify_status="timeout"), "warning"),
    "unparseable_answers": (
        where(lambda r: r["outcome_reward"] == 0.0 and share(r, 0.6), verify_status="unparseable"),
        "warning",
    ),
    "missing_signal": (where(lambda r: share(r, 0.05), process_scores=None, process_ends=None), "warning"),
    "truncation": (where(lambda r: share(r, 0.2), finish_reason="length"), "warning"),
    "untrainable": (
        lambda r: (
            r | {"loss_mask": [False] * len(r["loss_mask"]), "behavior_logprobs": [0.0] * len(r["loss_mask"])}
            if share(r, 0.2)
            else r
        ),
        "warning",
    ),
    "process_against_outcome": (lambda r: r | {"process_scores": [-x for x in r["process_scores"]]}, "warning"),
    "impossible_logprobs": (
        lambda r: r | {"behavior_logprobs": [0.5] * len(r["token_ids"])} if r["rollout_id"] == "g3/1" else r,
        "error",
    ),
    "logprobs_all_zero": (lambda r: r | {"behavior_logprobs": [0.0] * len(r["token_ids"])}, "error"),
}


@pytest.mark.parametrize("code", DEFECTS)
def test_a_planted_defect_is_found(store_run, healthy, code):
    change, severity = DEFECTS[code]
    assert codes(lint(store_run(healthy(change)).shaped.url)).get(code) == severity


ERRORS = {
    "verifier_errors": where(lambda r: share(r, 0.2), **NULL_OUTCOME, verify_status="error"),
    "missing_signal": where(lambda r: share(r, 0.3), process_scores=None, process_ends=None),
    "truncation": where(lambda r: share(r, 0.6), finish_reason="length"),
    "untrainable": where(lambda r: share(r, 0.6), process_scores=None, process_ends=None),
    "singletons": lambda r: r if r["sample_index"] == 0 else None,
    "nothing_to_learn": where(lambda r: True, process_scores=None, process_ends=None),
}


@pytest.mark.parametrize("code", ERRORS)
def test_a_grave_defect_is_an_error(store_run, healthy, code):
    assert codes(lint(store_run(healthy(ERRORS[code])).shaped.url)).get(code) == "error"


def test_a_process_signal_that_knows_nothing_of_the_outcome_is_found(store_run, healthy):
    """Scores 1, 1, 0, 0 beside outcomes 1, 0, 1, 0."""
    blind = healthy(lambda r: r | {"process_scores": [1.0 - r["sample_index"] // 2] * len(r["process_scores"])})
    assert codes(lint(store_run(blind).shaped.url))["process_uncorrelated"] == "warning"


def test_rollouts_of_advantage_zero_are_found(store_run, healthy):
    constant = where(lambda r: share(r, 0.6), outcome_reward=1.0, verify_status="ok", format_reward=1.0)
    options = replace(STEPS, estimator="grpo_outcome")
    found = codes(lint(store_run(healthy(constant), options=options).shaped.url))
    assert found["zero_advantage"] == "warning"


def test_a_stream_that_dominates_is_found(store_run, healthy):
    options = replace(STEPS, weights=Weights(process=10.0))
    (finding,) = [f for f in lint(store_run(healthy(), options=options).shaped.url) if f.code == "dominant_stream"]
    assert finding.severity == "warning"
    assert finding.message.startswith("the process stream makes up 9")


def test_a_format_gate_that_dominates_is_found(store_run, healthy):
    rare = healthy(where(lambda r: r["sample_index"] == 3 and share(r, 0.5), format_ok=False, format_reward=0.0))
    url = store_run(rare).shaped.url
    (found,) = [one for one in lint(url, LintOptions(gate=0.3)) if one.code == "format_gate_dominates"]
    assert found.severity == "warning"
    assert found.message.startswith("12.5 % of the trainable rollouts fail the format and carry ")
    assert "format_gate_dominates" not in codes(lint(url, LintOptions(gate=0.6)))


def test_squared_advantages_of_gated_rollouts_are_those_of_their_tokens(store_run, healthy):
    spoiled = healthy(where(lambda r: r["sample_index"] == 3 and share(r, 0.5), format_ok=False, format_reward=0.0))
    masked = []
    for row in spoiled:
        mask = [index % 3 > 0 for index in range(len(row["token_ids"]))]
        logprobs = [p * counts for p, counts in zip(row["behavior_logprobs"], mask, strict=True)]
        masked.append(row | {"loss_mask": mask, "behavior_logprobs": logprobs})
    shaped = store_run(masked[:60], masked[60:]).shaped
    expected = {True: (0, 0.0), False: (0, 0.0)}
    for part in range(2):
        table = shaped.read_part(part)
        for values, mask, ok in zip(token_advantages(table), table["loss_mask"], table["format_ok"], strict=True):
            squares = sum(a * a for a, counts in zip(values.as_py(), mask.as_py(), strict=True) if counts)
            count, total = expected[ok.as_py()]
            expected[ok.as_py()] = count + 1, total + squares
    found = gather(shaped).gate
    assert {ok: count for ok, (count, _) in found.items()} == {True: 105, False: 15}
    for ok, (count, squares) in expected.items():
        assert found[ok] == (count, pytest.approx(squares, rel=1e-6))


def test_formats_that_fail_often_may_carry_much(store_run, healthy):
    """Half of the rollouts fail, and carry more than half: that is their share, and a bit."""
    often = healthy(where(lambda r: r["sample_index"] > 1, format_ok=False, format_reward=0.0))
    assert "format_gate_dominates" not in codes(lint(store_run(often).shaped.url))


def test_a_raw_stream_dominates_reward_shaping_by_its_scale(store_run, healthy):
    larger = healthy(lambda r: r | {"process_scores": [100 * x for x in r["process_scores"]]})
    options = replace(STEPS, estimator="reward_shaping")
    assert "dominant_stream" in codes(lint(store_run(larger, options=options).shaped.url))


def test_a_stream_that_dominates_gdpo_is_found(store_run, healthy):
    options = replace(STEPS, estimator="gdpo", weights=Weights(outcome=20.0), process=None)
    (finding,) = [f for f in lint(store_run(healthy(), options=options).shaped.url) if f.code == "dominant_stream"]
    assert re.match(r"the outcome stream makes up .* \(outcome .* %, format .* %\)", finding.message)


def test_abs_max_on_binary_rewards_is_found(store_run, healthy):
    options = replace(STEPS, standardize=Standardizers(outcome="abs_max"))
    assert codes(lint(store_run(healthy(), options=options).shaped.url)) == {"abs_max_on_binary_rewards": "warning"}


def test_abs_max_on_a_kl_signal_is_as_it_should_be(store_run, healthy):
    options = replace(STEPS, standardize=Standardizers(process="abs_max"))
    assert "abs_max_on_binary_rewards" not in codes(lint(store_run(healthy(), options=options).shaped.url))


@pytest.mark.parametrize(("side", "severity"), [("wrong", "warning"), ("right", "info")])
def test_length_that_is_paid_for_is_found(store_run, healthy, side, severity):
    def longer_is_better(row):
        if (row["outcome_reward"] == 1.0) != (side == "right"):
            return row
        return row | {"process_scores": [len(row["token_ids"]) / 4 - 1] * len(row["process_scores"])}

    options = replace(STEPS, weights=Weights(outcome=0.0, format=0.0))
    found = codes(lint(store_run(healthy(longer_is_better), options=options).shaped.url))
    assert found[f"length_slope_{side}"] == severity


def test_chunks_that_are_tokens_are_found(store_run, healthy):
    chance = random.Random(2)
    options = replace(STEPS, signal="kl")
    per_token = healthy(
        lambda r: r | {"process_scores": [chance.gauss(r["outcome_reward"], 0.5) for _ in r["token_ids"]]}
    )
    assert codes(lint(store_run(per_token, options=options).shaped.url))["chunks_are_tokens"] == "info"


SAMPLING_DEFECTS = {
    "greedy_sampling": ({"temperature": 0.0}, "error"),
    "raw_logprobs_at_temperature": ({"temperature": 0.7}, "error"),
    "truncated_sampling": ({"top_p": 0.9}, "warning"),
    "logprobs_not_of_sampling": ({"top_k": 1, "logprobs_mode": "processed_logprobs"}, "error"),
}


@pytest.mark.parametrize("code", SAMPLING_DEFECTS)
def test_sampling_that_the_logprobs_cannot_come_from_is_found(store_run, healthy, code):
    sampling, severity = SAMPLING_DEFECTS[code]
    assert codes(lint(store_run(healthy(), sampling=sampling).shaped.url)).get(code) == severity


def test_greedy_choices_may_have_probability_one(store_run, healthy):
    certain = healthy(lambda r: r | {"behavior_logprobs": [0.0] * len(r["token_ids"])})
    run = store_run(certain, sampling={"top_k": 1, "logprobs_mode": "processed_logprobs"})
    found = codes(lint(run.shaped.url))
    assert "logprobs_not_of_sampling" not in found
    assert "logprobs_all_zero" not in found


def test_examples_are_named(store_run, healthy):
    (finding,) = lint(store_run(healthy(DEFECTS["truncation"][0])).shaped.url)
    assert finding.examples == ("g0/0", "g0/1", "g0/2")
    assert finding.message.startswith("20.0 %")


def test_rollouts_and_signals_are_looked_at_by_what_they_have(store_run, healthy):
    def spoil(row):
        return where(lambda r: share(r, 0.2), finish_reason="length", outcome_reward=None, verify_status="error")(row)

    run = store_run(healthy(spoil))
    assert codes(lint(run.rollouts)) == {"truncation": "warning"}
    assert codes(lint(f"{run.signals}/verifier")) == {"verifier_errors": "error"}
    assert lint(f"{run.signals}/steps") == []


def test_a_threshold_may_be_moved(store_run, healthy):
    url = store_run(healthy(DEFECTS["truncation"][0])).shaped.url
    assert lint(url, LintOptions(truncation=0.25)) == []


def test_an_unknown_threshold_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'truncation'"):
        build(LintOptions, {"truncatoin": 0.1}, where="thresholds")


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_exits_with_1_where_an_error_is_found(store_run, healthy, capsys):
    url = store_run(healthy(ERRORS["truncation"])).shaped.url
    assert main(["lint", url]) == 1
    assert "error truncation: 60.0 %" in capsys.readouterr().out
    assert main(["lint", url, "--set", "truncation_error=0.9", "--json"]) == 0
    assert [finding["severity"] for finding in json.loads(capsys.readouterr().out)] == ["warning"]


def test_the_command_says_that_it_found_nothing(store_run, healthy, capsys):
    assert main(["lint", store_run(healthy()).shaped.url]) == 0
    assert capsys.readouterr().out.rstrip().endswith("nothing found")


def test_a_folder_that_is_no_dataset_is_wrong_input(tmp_path, capsys):
    assert main(["lint", str(tmp_path)]) == 2
    assert "_dataset.json" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["process", "outcome", "format"])
def test_a_negative_weight_is_named(store_run, healthy, stream):
    options = replace(STEPS, weights=replace(STEPS.weights, **{stream: -1.0}))
    (found,) = [one for one in lint(store_run(healthy(), options=options).shaped.url) if one.code == "negative_weight"]
    assert f"weights.{stream} is -1" in found.message


def test_groups_of_one_by_design_are_named(store_run, healthy):
    rows = [one for one in healthy() if one["sample_index"] == 0]
    assert codes(lint(store_run(rows, sampling={"group_size": 1}).shaped.url))["group_size_1"] == "warning"


def test_a_negative_round_is_named(store_run, healthy):
    facts = gather(store_run(healthy()).shaped)
    assert codes(lint_facts(facts, LintOptions())) == {}
    assert codes(lint_facts(replace(facts, round=-1), LintOptions())) == {"negative_round": "error"}


def test_prompts_are_refused_in_words(tmp_path, capsys):
    source = tmp_path / "tasks.jsonl"
    source.write_text('{"prompt": "1+1="}\n')
    write_prompts(PromptSource(source=str(source)), out=str(tmp_path / "prompts"))
    assert main(["lint", str(tmp_path / "prompts")]) == 2
    assert "holds prompts; lint looks at rollouts, a signal or a shaped dataset" in capsys.readouterr().err


# -- streams -------------------------------------------------------------------------------------------------------

BY_STREAMS = ShapeOptions(
    process="steps",
    outcome="verifier",
    streams={"dense": Stream(signal="steps"), "right": Stream(signal="verifier"), "form": Stream(signal="format")},
)


def with_stream(name, **changes):
    return replace(BY_STREAMS, streams={**BY_STREAMS.streams, name: replace(BY_STREAMS.streams[name], **changes)})


def test_healthy_streams_give_no_finding(store_run, healthy):
    assert lint(store_run(healthy(), options=BY_STREAMS).shaped.url) == []


STREAM_DEFECTS = {
    "negative_weight": ({"weight": -1.0}, "streams.dense.weight is -1: what the process signal calls good"),
    "dominant_stream": ({"weight": 50.0}, "the dense stream makes up"),
    "padding_pays_right": (
        {"operator": "none", "transform": (Transform("clip", low=0.1),)},
        "credit of a right rollout",
    ),
}


@pytest.mark.parametrize("code", STREAM_DEFECTS)
def test_a_defect_of_a_stream_is_found(store_run, healthy, code):
    changes, said = STREAM_DEFECTS[code]
    options = replace(with_stream("dense", **changes), k=0.0)
    (found,) = [one for one in lint(store_run(healthy(), options=options).shaped.url) if one.code == code]
    assert said in found.message


def test_the_stream_to_change_is_named_as_an_option(store_run, healthy):
    options = with_stream("dense", weight=50.0)
    (found,) = [one for one in lint(store_run(healthy(), options=options).shaped.url) if one.code == "dominant_stream"]
    assert "--grid streams.dense.weight=" in found.advice


def test_abs_max_on_a_stream_of_zeros_and_ones_is_named(store_run, healthy):
    run = store_run(healthy(), options=with_stream("right", operator="abs_max"))
    (found,) = [one for one in lint(run.shaped.url) if one.code == "abs_max_on_binary_rewards"]
    assert "the stream right, which is 0 or 1" in found.message


def test_a_process_stream_that_points_away_is_named(store_run, healthy):
    run = store_run(healthy(DEFECTS["process_against_outcome"][0]), options=BY_STREAMS)
    assert codes(lint(run.shaped.url))["process_against_outcome"] == "warning"


def test_streams_alone_may_name_the_outcome(store_run, healthy):
    """Its columns stand under the signal's name then; rules about right and wrong find them."""
    options = replace(BY_STREAMS, outcome=None, right="verifier", k=0.0)
    options = replace(options, streams={name: replace(one, operator="none") for name, one in options.streams.items()})
    positive = healthy(lambda r: r | {"process_scores": [abs(x) + 0.1 for x in r["process_scores"]]})
    found = codes(lint(store_run(positive, options=options).shaped.url))
    assert {"padding_pays_right", "padding_pays_wrong"} <= found.keys()


def test_a_pool_of_the_dataset_is_taken_as_recorded(store_run, healthy):
    options = with_stream("dense", pool="dataset")
    assert codes(lint(store_run(healthy(), options=options).shaped.url)) == {}


# -- padding -------------------------------------------------------------------------------------------------------


def padding(run, **options):
    found = lint(run.shaped.url, LintOptions(**options))
    return {finding.code: finding for finding in found if finding.code.startswith("padding")}


def test_padding_that_pays_is_found_with_its_score_and_position(store_run, healthy):
    """Raw positive scores summed up: every step pays, whatever the rollout came to (Theorem 1)."""
    positive = healthy(lambda r: r | {"process_scores": [abs(x) + 0.1 for x in r["process_scores"]]})
    run = store_run(positive, options=replace(STEPS, standardize="none", k=0.0))
    found = padding(run)
    assert found.keys() == {"padding_pays_right", "padding_pays_wrong"}
    message = found["padding_pays_wrong"].message
    score = float(re.search(r"a step scored ([\d.]+) that is added at the start or middle or end", message)[1])
    gain = float(re.search(r"raises the total credit of a wrong rollout by ([\d.]+) ", message)[1])
    assert gain == pytest.approx(score + 0.5 + 0.5 * 0.5, abs=0.3)  # its credit is score + outcome 0 + format 0.5 or 1
    assert "steps pay from a score of 0.1" in message  # the lowest stored one


def test_length_division_takes_the_pay_away(store_run, healthy):
    positive = healthy(lambda r: r | {"process_scores": [abs(x) + 0.1 for x in r["process_scores"]]})
    assert padding(store_run(positive, options=replace(STEPS, standardize="none", k=1.0))) == {}


def test_the_score_in_question_can_be_given(store_run, healthy):
    run = store_run(healthy())
    assert padding(run) == {}
    assert padding(run, padding_score=5.0).keys() == {"padding_pays_right", "padding_pays_wrong"}
    assert padding(run, padding_score=5.0, rollouts=1000) == {}


def test_without_an_outcome_the_sides_are_one(store_run, healthy):
    weights = Weights(process=1.0, outcome=0.0, format=0.0)
    options = ShapeOptions(process="steps", standardize="none", k=0.0, weights=weights)
    run = store_run(healthy(lambda r: r | {"process_scores": [1.0] * len(r["process_scores"])}), options=options)
    assert padding(run).keys() == {"padding_pays_all"}


def test_a_score_that_the_estimator_does_not_take_is_named_and_the_rest_is_looked_at(store_run, healthy):
    """PAV takes probabilities alone."""
    values = healthy(lambda r: r | {"process_scores": [min(max(x, 0.0), 1.0) for x in r["process_scores"]]})
    run = store_run(values, options=replace(STEPS, estimator="pav", weights=Weights(format=0.0)))
    assert "padding_not_forecast" not in padding(run)
    assert "5 is no probability" in padding(run, padding_score=5.0)["padding_not_forecast"].message


def test_an_estimator_that_is_not_here_is_named_and_the_rest_is_looked_at(store_run, healthy, monkeypatch, tmp_path):
    module = tmp_path / "gone_estimator.py"
    module.write_text("def by_mean(group, config):\n    return [m * 1.0 for m in group.mask]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = store_run(healthy(ERRORS["truncation"]), options=replace(STEPS, estimator="gone_estimator:by_mean"))
    assert padding(run) == {}
    monkeypatch.delitem(sys.modules, "gone_estimator")
    module.unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    found = codes(lint(run.shaped.url))
    assert found["padding_not_forecast"] == "info"
    assert found["truncation"] == "error"
