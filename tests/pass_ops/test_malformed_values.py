"""Tables whose values contradict each other or cannot be computed with: each error with its message."""

from __future__ import annotations

import math
import re

import pyarrow as pa
import pytest
from cases import to_table
from malformed import BOOL, F32, I32, INF, KL, NAN, STEPS, TOKENS, add, put, refused

from pass_ops import ShapingConfig, Weights, errors, shape

BAD = {
    # lengths
    "fewer scores than ends": (
        put("process_scores", [[0.5], [2.0], [-1.0]], F32),
        {},
        errors.LengthMismatchError,
        "rollout 'q1/0': process_scores has 1 values and process_ends 2; give one score and one exclusive "
        "token end for each step",
    ),
    "more scores than ends": (
        put("process_scores", [[0.5, 1.0], [2.0], [-1.0, 3.0]], F32),
        {},
        errors.LengthMismatchError,
        "rollout 'q2/0': process_scores has 2 values and process_ends 1; give one score and one exclusive "
        "token end for each step",
    ),
    "scores of steps under kl": (
        STEPS,
        KL,
        errors.LengthMismatchError,
        "rollout 'q1/0': process_scores has 2 values and loss_mask 3; signal 'kl' takes one score for each "
        "completion token (for one score per step set signal='prm')",
    ),
    "a mask of another length than the tokens": (
        add("token_ids", [[1, 2, 3], [1, 2, 3], [1]], I32),
        {},
        errors.LengthMismatchError,
        "rollout 'q1/1': loss_mask has 2 values and token_ids 3; give one bool for each completion token",
    ),
    # ends
    "ends that repeat": (
        put("process_ends", [[3, 3], [2], [1]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q1/0': process_ends is [3, 3] for a completion of 3 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "ends that fall": (
        put("process_ends", [[3, 2], [2], [1]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q1/0': process_ends is [3, 2] for a completion of 3 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "an end of 0": (
        put("process_ends", [[0, 3], [2], [1]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q1/0': process_ends is [0, 3] for a completion of 3 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "a negative end": (
        put("process_ends", [[-1, 3], [2], [1]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q1/0': process_ends is [-1, 3] for a completion of 3 tokens; give exclusive token ends that"
        " increase strictly from above 0, the last one equal to that length",
    ),
    "ends short of the length": (
        put("process_ends", [[1, 2], [2], [1]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q1/0': process_ends is [1, 2] for a completion of 3 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "ends beyond the length": (
        put("process_ends", [[1, 3], [2], [7]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q2/0': process_ends is [7] for a completion of 1 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "inclusive ends": (
        put("process_ends", [[0, 2], [1], [0]], I32),
        {},
        errors.StepEndsError,
        "rollout 'q1/0': process_ends is [0, 2] for a completion of 3 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "no step for some tokens": (
        put("process_ends", [[1, 3], [], [1]], I32, put("process_scores", [[0.5, 1.0], [], [1.0]], F32)),
        {},
        errors.StepEndsError,
        "rollout 'q1/1': process_ends is [] for a completion of 2 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    "a long list of wrong ends": (
        pa.table(
            {
                "group_id": ["a"],
                "loss_mask": [[True] * 20],
                "process_scores": pa.array([[1.0] * 20], F32),
                "process_ends": pa.array([[*range(1, 20), 19]], I32),
            }
        ),
        {"weights": Weights(outcome=0.0, format=0.0)},
        errors.StepEndsError,
        "row 0: process_ends is [1, 2, 3, 4, 5, 6, ..., 19] for a completion of 20 tokens; give exclusive "
        "token ends that increase strictly from above 0, the last one equal to that length",
    ),
    "the most wrong ends that are all shown": (
        put(
            "process_ends",
            [[1, 3], [2], [*range(1, 9)]],
            I32,
            put("process_scores", [[0.5, 1.0], [2.0], [0.0] * 8], F32),
        ),
        {},
        errors.StepEndsError,
        "rollout 'q2/0': process_ends is [1, 2, 3, 4, 5, 6, 7, 8] for a completion of 1 tokens; give exclusive "
        "token ends that increase strictly from above 0, the last one equal to that length",
    ),
    "the fewest wrong ends that are cut short": (
        put(
            "process_ends",
            [[1, 3], [2], [*range(1, 10)]],
            I32,
            put("process_scores", [[0.5, 1.0], [2.0], [0.0] * 9], F32),
        ),
        {},
        errors.StepEndsError,
        "rollout 'q2/0': process_ends is [1, 2, 3, 4, 5, 6, ..., 9] for a completion of 1 tokens; give exclusive "
        "token ends that increase strictly from above 0, the last one equal to that length",
    ),
    "wrong ends in a row with a null reward": (
        put("outcome_reward", [1.0, None, 1.0], pa.float32(), put("process_ends", [[1, 3], [9], [1]], I32)),
        {},
        errors.StepEndsError,
        "rollout 'q1/1': process_ends is [9] for a completion of 2 tokens; give exclusive token ends that "
        "increase strictly from above 0, the last one equal to that length",
    ),
    # nulls
    "a null group_id": (
        put("group_id", ["q1", None, "q2"]),
        {},
        errors.NullValueError,
        "rollout 'q1/1': group_id is null, so it belongs to no group; give it the prompt_id",
    ),
    "group_ids that are null, all of them": (
        put("group_id", pa.nulls(3)),
        {},
        errors.NullValueError,
        "rollout 'q1/0': group_id is null, so it belongs to no group; give it the prompt_id",
    ),
    "a null loss_mask": (
        put("loss_mask", [[True, True, False], None, [True]], BOOL),
        {},
        errors.NullValueError,
        "rollout 'q1/1': loss_mask is null, so its length is unknown; give one bool per completion token",
    ),
    "a null in loss_mask": (
        put("loss_mask", [[True, True, False], [True, None], [True]], BOOL),
        {},
        errors.NullValueError,
        "rollout 'q1/1': loss_mask holds a null inside its list; every token counts (True) or not (False)",
    ),
    "a null in process_scores": (
        put("process_scores", [[0.5, 1.0], [2.0], [None]], F32),
        {},
        errors.NullValueError,
        "rollout 'q2/0': process_scores holds a null inside its list; store 0.0 at masked tokens, or make the"
        " whole list null where the value could not be computed",
    ),
    "a null in masked process_scores": (
        put("process_scores", [[0.5, 1.0, None], [2.0, 1.0], [1.0]], F32, TOKENS),
        KL,
        errors.NullValueError,
        "rollout 'q1/0': process_scores holds a null inside its list; store 0.0 at masked tokens, or make the"
        " whole list null where the value could not be computed",
    ),
    "a null in process_ends": (
        put("process_ends", [[None, 3], [2], [1]], I32),
        {},
        errors.NullValueError,
        "rollout 'q1/0': process_ends holds a null inside its list; store 0.0 at masked tokens, or make the "
        "whole list null where the value could not be computed",
    ),
    # NaN and infinity
    "NaN at an unmasked step": (
        put("process_scores", [[0.5, NAN], [2.0], [-1.0]], F32),
        {},
        errors.NonFiniteError,
        "rollout 'q1/0': process_scores is nan at unmasked step 1; it would spoil its whole group; make the "
        "whole list null where the signal could not be computed",
    ),
    "infinity at an unmasked step": (
        put("process_scores", [[0.5, 1.0], [INF], [-1.0]], F32),
        {},
        errors.NonFiniteError,
        "rollout 'q1/1': process_scores is inf at unmasked step 0; it would spoil its whole group; make the "
        "whole list null where the signal could not be computed",
    ),
    "NaN at an unmasked token": (
        put("process_scores", [[0.5, 1.0, NAN], [2.0, NAN], [-1.0]], F32, TOKENS),
        KL,
        errors.NonFiniteError,
        "rollout 'q1/1': process_scores is nan at unmasked token 1; it would spoil its whole group; make the "
        "whole list null where the signal could not be computed",
    ),
    "infinity under abs_max": (
        put("process_scores", [[0.5, -INF, NAN], [2.0, 1.0], [-1.0]], F32, TOKENS),
        {**KL, "standardize": "abs_max"},
        errors.NonFiniteError,
        "rollout 'q1/0': process_scores is -inf at unmasked token 1; it would spoil its whole group; make the"
        " whole list null where the signal could not be computed",
    ),
    "NaN under none": (
        put("process_scores", [[NAN, 1.0], [2.0], [-1.0]], F32),
        {"standardize": "none", "estimator": "reward_shaping"},
        errors.NonFiniteError,
        "rollout 'q1/0': process_scores is nan at unmasked step 0; it would spoil its whole group; make the "
        "whole list null where the signal could not be computed",
    ),
    "NaN in a row with a null reward": (
        put("outcome_reward", [1.0, None, 1.0], pa.float32(), put("process_scores", [[0.5, 1.0], [NAN], [1.0]], F32)),
        {"estimator": "grpo_process"},
        errors.NonFiniteError,
        "rollout 'q1/1': process_scores is nan at unmasked step 0; it would spoil its whole group; make the "
        "whole list null where the signal could not be computed",
    ),
    "NaN in outcome_reward": (
        put("outcome_reward", [1.0, NAN, 1.0], pa.float32()),
        {},
        errors.NonFiniteError,
        "rollout 'q1/1': outcome_reward is nan; it would spoil its whole group; store null where the reward "
        "could not be computed",
    ),
    "infinity in format_reward": (
        put("format_reward", [1.0, 1.0, -INF], pa.float32()),
        {"estimator": "grpo_outcome"},
        errors.NonFiniteError,
        "rollout 'q2/0': format_reward is -inf; it would spoil its whole group; store null where the reward "
        "could not be computed",
    ),
    # groups
    "a group that comes back": (
        put("group_id", ["q1", "q2", "q1"]),
        {},
        errors.GroupOrderError,
        "rollout 'q2/0': group 'q1' began at row 0, ended, and goes on at row 2; its statistics would be "
        "split; sort the table by group_id first",
    ),
    "a group that comes back without rollout ids": (
        put("group_id", ["q1", "q2", "q1"]).drop_columns(["rollout_id"]),
        {},
        errors.GroupOrderError,
        "row 2: group 'q1' began at row 0, ended, and goes on at row 2; its statistics would be split; sort "
        "the table by group_id first",
    ),
    "a null rollout_id": (
        put("rollout_id", ["q1/0", None, "q2/0"], pa.string(), put("outcome_reward", [1.0, NAN, 1.0], pa.float32())),
        {},
        errors.NonFiniteError,
        "row 1: outcome_reward is nan; it would spoil its whole group; store null where the reward could not "
        "be computed",
    ),
    # outputs beyond float32
    "credits beyond float32": (
        put("process_scores", [[3e38, -3e38], [3e38], [-1.0]], F32),
        {"standardize": "none", "weights": Weights(process=2.0)},
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
    "a path score beyond float32": (
        put("process_scores", [[3e38, 3e38], [2.0], [-1.0]], F32),
        {"standardize": "none", "k": 0.0},
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
    "a return beyond float32": (
        put("process_scores", [[3e38, 3e38], [2.0], [-1.0]], F32),
        {"standardize": "none", "estimator": "grpo_process"},
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
    "only a credit beyond float32": (
        put("loss_mask", [[True] * 3, [True] * 1000, [True]], BOOL, put("process_ends", [[1, 3], [1000], [1]], I32)),
        {"standardize": "none", "weights": Weights(process=3e38), "k": 1.0},
        errors.OutputOverflowError,
        "rollout 'q1/1': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
    "an outcome beyond float32": (
        put("outcome_reward", [0.0, 1.0, 1.0], pa.float32()),
        {"standardize": "none", "estimator": "grpo_outcome", "weights": Weights(outcome=1e39)},
        errors.OutputOverflowError,
        "rollout 'q1/1': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
    "weights whose squares overflow": (
        STEPS,
        {"estimator": "reward_shaping", "weights": Weights(outcome=1e200)},
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
    "reward weights whose squares overflow": (
        STEPS,
        {"estimator": "grpo_outcome", "weights": Weights(outcome=1e200)},
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
        "the rewards or the weights down",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_table_is_refused_with_its_message(case):
    refused(*BAD[case])


def test_the_first_bad_rollout_is_named_whatever_the_cut():
    table = pa.concat_tables([STEPS.slice(0, 1), STEPS.slice(1)])
    bad = table.set_column(5, "outcome_reward", pa.array([1.0, NAN, NAN], pa.float32()))
    with pytest.raises(errors.NonFiniteError, match=r"^rollout 'q1/1'"):
        shape(bad, ShapingConfig(), threads=2)
    with pytest.raises(errors.NonFiniteError, match=r"^rollout 'q2/0'"):
        shape(bad.slice(2), ShapingConfig())


@pytest.mark.parametrize("kind", [I32, pa.large_list(pa.int64())])
def test_token_ids_give_the_lengths_where_they_are_not_null(kind):
    ids = pa.array([[1, 2, 3], None, [1]], kind)
    assert len(shape(STEPS.append_column("token_ids", ids), ShapingConfig())) == 3
    for values, row, says in (
        ([[1, 2], None, [1]], "q1/0", "loss_mask has 3 values and token_ids 2"),
        ([None, None, []], "q2/0", "loss_mask has 1 values and token_ids 0"),
    ):
        table = STEPS.append_column("token_ids", pa.array(values, kind))
        message = f"rollout {row!r}: {says}; give one bool for each completion token"
        with pytest.raises(errors.LengthMismatchError, match=f"^{re.escape(message)}$"):
            shape(table, ShapingConfig(), threads=1)


def test_the_bad_step_of_a_later_group_is_named():
    rows = [{"mask": [True, False, True], "scores": [float(g), NAN, 1.0], "ends": [1, 2, 3]} for g in range(4)]
    rows[2] = rows[2] | {"scores": [1.0, INF, NAN]}
    table = to_table([rows[:2], rows[2:]])
    says = (
        "rollout 'g1/0': process_scores is nan at unmasked step 2; it would spoil its whole group; "
        "make the whole list null where the signal could not be computed"
    )
    with pytest.raises(errors.NonFiniteError, match=f"^{re.escape(says)}$"):
        shape(table, ShapingConfig(weights=Weights(outcome=0.0, format=0.0)))


@pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process", "grpo_outcome"])
def test_the_largest_float32_is_stored_and_what_rounds_beyond_it_is_refused(estimator):
    beyond = 3.4028235677973366e38  # halfway from the largest float32 to the next power of two: rounds to infinity
    table = to_table([[{"mask": [True], "scores": [1.0], "outcome": 1.0}]])

    def advantages(weight):
        stream = (
            {"outcome": weight, "process": 0.0} if estimator == "grpo_outcome" else {"process": weight, "outcome": 0.0}
        )
        config = ShapingConfig(
            estimator=estimator, signal="kl", standardize="none", weights=Weights(**stream, format=0.0)
        )
        return shape(table, config)["chunk_advantages"].to_pylist()

    assert advantages(math.nextafter(beyond, 0.0)) == [[3.4028234663852886e38]]
    with pytest.raises(errors.OutputOverflowError, match=r"^rollout 'g0/0'"):
        advantages(beyond)
    with pytest.raises(errors.OutputOverflowError, match=r"^rollout 'g0/0'"):
        advantages(-beyond)
