"""Malformed tables and options: each raises its own error, with exactly this message."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re

import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Standardizers, Weights, errors, shape, token_advantages

NAN, INF = math.nan, math.inf
STEPS = pa.table(
    {
        "rollout_id": ["q1/0", "q1/1", "q2/0"],
        "group_id": ["q1", "q1", "q2"],
        "loss_mask": pa.array([[True, True, False], [True, True], [True]], pa.list_(pa.bool_())),
        "process_scores": pa.array([[0.5, 1.0], [2.0], [-1.0]], pa.list_(pa.float32())),
        "process_ends": pa.array([[1, 3], [2], [1]], pa.list_(pa.int32())),
        "outcome_reward": pa.array([1.0, 0.0, 1.0], pa.float32()),
        "format_reward": pa.array([1.0, 1.0, 0.0], pa.float32()),
        "format_ok": [True, True, False],
    }
)
TOKENS = STEPS.drop_columns(["process_ends"]).set_column(
    3, "process_scores", pa.array([[0.5, 1.0, 0.0], [2.0, 1.0], [-1.0]], pa.list_(pa.float32()))
)
KL = {"signal": "kl"}
F32, I32, BOOL = pa.list_(pa.float32()), pa.list_(pa.int32()), pa.list_(pa.bool_())


def put(name, values, kind=None, table=STEPS):
    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)
    return table.set_column(table.schema.get_field_index(name), name, column)


def drop(*names, table=STEPS):
    return table.drop_columns(list(names))


def add(name, values, kind=None):
    return STEPS.append_column(name, pa.array(values, kind))


def rename(**names):
    return STEPS.rename_columns([names.get(n, n) for n in STEPS.column_names])


BAD = {
    # columns that are missing
    "no group_id": (
        drop("group_id"),
        {},
        errors.MissingColumnError,
        "column 'group_id' is missing: shaping needs it; add it to the columns rollout_id, loss_mask, "
        "process_scores, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no loss_mask": (
        drop("loss_mask"),
        {},
        errors.MissingColumnError,
        "column 'loss_mask' is missing: shaping needs it; add it to the columns rollout_id, group_id, "
        "process_scores, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no process_scores": (
        drop("process_scores"),
        {},
        errors.MissingColumnError,
        "column 'process_scores' is missing: signal 'prm' of estimator 'pass' needs it; add it to the columns"
        " rollout_id, group_id, loss_mask, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no process_scores though their weight is 0": (
        drop("process_scores"),
        {"weights": Weights(process=0.0)},
        errors.MissingColumnError,
        "column 'process_scores' is missing: signal 'prm' of estimator 'pass' needs it; add it to the columns"
        " rollout_id, group_id, loss_mask, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no process_ends": (
        drop("process_ends"),
        {},
        errors.MissingColumnError,
        "column 'process_ends' is missing: signal 'prm' of estimator 'pass' needs the exclusive token end of "
        "each step; add it, or set signal='kl' if process_scores holds one score per token",
    ),
    "no outcome_reward": (
        drop("outcome_reward"),
        {},
        errors.MissingColumnError,
        "column 'outcome_reward' is missing: weights.outcome=1 (0 leaves it out) needs it; add it to the "
        "columns rollout_id, group_id, loss_mask, process_scores, process_ends, format_reward, format_ok",
    ),
    "no format column": (
        drop("format_reward", "format_ok"),
        {},
        errors.MissingColumnError,
        "columns 'format_reward' and 'format_ok' are both missing: weights.format is 1; add one of them, or "
        "set weights.format=0 to shape without a format stream",
    ),
    "a column twice": (
        rename(format_reward="outcome_reward"),
        {"weights": Weights(format=0.0)},
        errors.MissingColumnError,
        "column 'outcome_reward' appears 2 times; keep the one that weights.outcome=1 (0 leaves it out) shall use",
    ),
    "no columns": (
        pa.table({}),
        {"estimator": "grpo_outcome", "weights": Weights(outcome=0.0, format=0.0)},
        errors.MissingColumnError,
        "column 'loss_mask' is missing: shaping needs it; add it to the columns (the table has none)",
    ),
    # types
    "not a table": (
        {"group_id": ["a"]},
        {},
        errors.ShapingError,
        "expected a pyarrow.Table, got builtins.dict; convert it first (polars: frame.to_arrow(), Hugging "
        "Face: dataset.data.table, pandas: pyarrow.Table.from_pandas(frame))",
    ),
    "group_id is a float": (
        put("group_id", [1.0, 1.0, 2.0]),
        {},
        errors.ColumnTypeError,
        "column 'group_id' is float64, expected string; store the prompt_id as a string",
    ),
    "group_id is a list": (
        put("group_id", [["a"], ["a"], ["b"]]),
        {},
        errors.ColumnTypeError,
        "column 'group_id' is list<string>, expected string; store the prompt_id as a string",
    ),
    "loss_mask is one bool": (
        put("loss_mask", [True, True, True]),
        {},
        errors.ColumnTypeError,
        "column 'loss_mask' is bool, expected list<bool>, and there is no cast that loses nothing; store it "
        "as list<bool>",
    ),
    "loss_mask holds a 2": (
        put("loss_mask", [[1, 2, 0], [1, 1], [1]], pa.list_(pa.int8())),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'loss_mask' is list<int8>, expected list<bool>, and 2 would become True; "
        "store it as list<bool>",
    ),
    "loss_mask is a string": (
        put("loss_mask", ["110", "11", "1"]),
        {},
        errors.ColumnTypeError,
        "column 'loss_mask' is string, expected list<bool>, and there is no cast that loses nothing; store it"
        " as list<bool>",
    ),
    "process_scores is a number": (
        put("process_scores", [1.0, 2.0, 3.0], pa.float32()),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is float32, expected list<float32>, and there is no cast that loses nothing;"
        " store it as list<float32>",
    ),
    "process_scores loses digits": (
        put("process_scores", [[0.5, 0.1], [2.0], [-1.0]], pa.list_(pa.float64())),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'process_scores' is list<float64>, expected list<float32>, and 0.1 would "
        "become 0.10000000149011612; store it as list<float32>",
    ),
    "process_scores is beyond float32": (
        put("process_scores", [[0.5, 1e39], [2.0], [-1.0]], pa.list_(pa.float64())),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'process_scores' is list<float64>, expected list<float32>, and 1e+39 would "
        "become inf; store it as list<float32>",
    ),
    "process_scores is text": (
        put("process_scores", [["a", "b"], ["c"], ["d"]]),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is list<string>, expected list<float32>, and there is no cast that loses "
        "nothing; store it as list<float32>",
    ),
    "process_scores is a list of lists": (
        put("process_scores", [[[1.0]], [[2.0]], [[3.0]]]),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is list<list<float64>>, expected list<float32>, and there is no cast that "
        "loses nothing; store it as list<float32>",
    ),
    "process_scores is a view": (
        put("process_scores", [[0.5, 1.0], [2.0], [-1.0]], pa.list_view(pa.float32())),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is list_view<item: float>, expected list<float32>, and there is no cast that"
        " loses nothing; store it as list<float32>",
    ),
    "process_ends has fractions": (
        put("process_ends", [[1.5, 3.0], [2.0], [1.0]], pa.list_(pa.float32())),
        {},
        errors.ColumnTypeError,
        "column 'process_ends' is list<float32>, expected list<int32>, and some value does not fit; store it "
        "as list<int32>",
    ),
    "process_ends is beyond int32": (
        put("process_ends", [[1, 2**40], [2], [1]], pa.list_(pa.int64())),
        {},
        errors.ColumnTypeError,
        "column 'process_ends' is list<int64>, expected list<int32>, and some value does not fit; store it as"
        " list<int32>",
    ),
    "outcome_reward loses digits": (
        put("outcome_reward", [0.1, 0.0, 1.0]),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'outcome_reward' is float64, expected float32, and 0.1 would become "
        "0.10000000149011612; store it as float32",
    ),
    "outcome_reward is too large an integer": (
        put("outcome_reward", [2**24 + 1, 0, 1]),
        {},
        errors.ColumnTypeError,
        "column 'outcome_reward' is int64, expected float32, and some value does not fit; store it as float32",
    ),
    "outcome_reward is text": (
        put("outcome_reward", ["1", "0", "1"]),
        {},
        errors.ColumnTypeError,
        "column 'outcome_reward' is string, expected float32, and there is no cast that loses nothing; store "
        "it as float32",
    ),
    "format_ok is a reward": (
        put("format_ok", [0.5, 1.0, 0.0]),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'format_ok' is float64, expected bool, and 0.5 would become True; store it as bool",
    ),
    "format_ok is text": (
        put("format_ok", ["yes", "no", "no"]),
        {},
        errors.ColumnTypeError,
        "column 'format_ok' is string, expected bool, and there is no cast that loses nothing; store it as bool",
    ),
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
    "an outcome beyond float32": (
        STEPS,
        {"standardize": "none", "estimator": "grpo_outcome", "weights": Weights(outcome=1e39)},
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; scale "
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
    table, options, error, message = BAD[case]
    with pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
        shape(table, ShapingConfig(**options))
    assert type(caught.value) is error
    assert isinstance(caught.value, (errors.PassError, ValueError))


def test_the_first_bad_rollout_is_named_whatever_the_cut():
    table = pa.concat_tables([STEPS.slice(0, 1), STEPS.slice(1)])
    bad = table.set_column(5, "outcome_reward", pa.array([1.0, NAN, NAN], pa.float32()))
    with pytest.raises(errors.NonFiniteError, match=r"^rollout 'q1/1'"):
        shape(bad, ShapingConfig(), threads=2)
    with pytest.raises(errors.NonFiniteError, match=r"^rollout 'q2/0'"):
        shape(bad.slice(2), ShapingConfig())


def test_a_lossy_value_in_a_slice_is_found_in_its_rollout():
    scores = pa.array([[0.1, 1.0], [2.0], [0.1]], pa.list_(pa.float64()))
    table = STEPS.set_column(3, "process_scores", scores)
    with pytest.raises(errors.ColumnTypeError, match=r"^rollout 'q2/0'"):
        shape(table.slice(2), ShapingConfig())


OPTIONS = {
    "estimator": (
        {"estimator": "pas"},
        "option estimator: unknown value 'pas'; the choices are 'pass', 'reward_shaping', 'grpo_process', "
        "'grpo_outcome', 'rloo', 'dr_grpo', 'gdpo', 'prime'; your own function is given as module:function; "
        "did you mean 'pass'?",
    ),
    "estimator of a module that is not there": (
        {"estimator": "no_such_module:shape"},
        "option estimator: 'no_such_module:shape' leads nowhere (No module named 'no_such_module'); "
        "give module:function, with the module on the import path",
    ),
    "estimator that its module does not have": (
        {"estimator": "math:advantage"},
        "option estimator: 'math:advantage' leads nowhere (module 'math' has no attribute 'advantage'); "
        "give module:function, with the module on the import path",
    ),
    "estimator that is no function": (
        {"estimator": "math:pi"},
        "option estimator: 'math:pi' is 3.141592653589793, which cannot be called; name a function of (group, config)",
    ),
    "signal": (
        {"signal": "opd"},
        "option signal: unknown value 'opd'; the choices are 'prm', 'kl'; choose one of them",
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
        "option standardize: one operator per stream only works where streams are standardized apart, and estimator "
        "'reward_shaping' standardizes them together; give one of 'masked_norm', 'abs_max', 'mean_only', "
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
    with pytest.raises(errors.OptionError, match=r"^threads: expected a whole number of at least 1, got 0"):
        shape(STEPS, ShapingConfig(), threads=0)


SPREAD = {
    "missing": (
        pa.table({"chunk_ends": pa.array([[1]], I32)}),
        errors.MissingColumnError,
        "column 'chunk_advantages' is missing: token_advantages needs it; add it to the columns chunk_ends",
    ),
    "counts": (
        pa.table({"chunk_ends": pa.array([[1, 2]], I32), "chunk_advantages": pa.array([[1.0]], F32)}),
        errors.LengthMismatchError,
        "row 0: chunk_ends has 2 values and chunk_advantages 1; shape the rollouts again",
    ),
    "order": (
        pa.table({"chunk_ends": pa.array([[1], [2, 2]], I32), "chunk_advantages": pa.array([[1.0], [1.0, 2.0]], F32)}),
        errors.StepEndsError,
        "row 1: chunk_ends do not increase strictly from above 0; shape the rollouts again",
    ),
    "null": (
        pa.table({"chunk_ends": pa.array([[1], None], I32), "chunk_advantages": pa.array([[1.0], []], F32)}),
        errors.NullValueError,
        "row 1: chunk_ends is or holds a null; shape the rollouts again",
    ),
    "null inside": (
        pa.table({"chunk_ends": pa.array([[1], [1]], I32), "chunk_advantages": pa.array([[1.0], [None]], F32)}),
        errors.NullValueError,
        "row 1: chunk_advantages is or holds a null; shape the rollouts again",
    ),
}


@pytest.mark.parametrize("case", SPREAD)
def test_token_advantages_refuses_what_shape_did_not_make(case):
    table, error, message = SPREAD[case]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        token_advantages(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: ShapingConfig(kk=1), "ShapingConfig: unknown option 'kk'; .*; did you mean 'k'?"),
        (lambda: Weights(proces=1.0), "Weights: unknown option 'proces'; .*; did you mean 'process'?"),
        (lambda: Standardizers(sound="none"), "Standardizers: unknown option 'sound'; .*; choose one of them"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(options, message):
    with pytest.raises(errors.OptionError, match=message.replace("?", r"\?")):
        options()


def test_options_survive_pickling_and_replacing():
    config = ShapingConfig(k=0.5, weights=Weights(format=0.0))
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, k=0.25).k == 0.25
