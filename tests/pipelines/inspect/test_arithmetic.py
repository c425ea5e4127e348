"""The arithmetic that `explain` shows: by hand on small groups, and against `pass_ops.shape` on random ones."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_ops import ShapingConfig, Standardizers, Stream, Weights, shape
from pass_ops.options.config import ESTIMATORS, OPERATORS
from pipelines.inspect.explain import stream_group
from pipelines.inspect.explain.arithmetic import GroupArithmetic
from pipelines.inspect.explain.explanation import check_group
from pipelines.inspect.explain.pools import Columns, StoredRow

RAW = {"standardize": "none", "k": 0.0}
PROCESS_ONLY = Weights(process=1.0, outcome=0.0, format=0.0)


def steps(*scores: float, rollout_id: str = "a/0", tokens: int = 1, **values) -> StoredRow:
    """A rollout with one score per step of `tokens` tokens, every reward 1."""
    length = tokens * len(scores)
    row = {
        "mask": (True,) * length,
        "ends": tuple(range(tokens, length + 1, tokens)),
        "outcome": 1.0,
        "format": 1.0,
        "ok": True,
    }
    return StoredRow(rollout_id=rollout_id, scores=scores, **(row | values))


def tokens(*scores: float, **values) -> StoredRow:
    """A rollout with one score per token."""
    return steps(*scores, **({"ends": None} | values))


def by_hand(rows, config, index=0, **options):
    return GroupArithmetic(rows, config=config, columns=Columns()).row(index, **options)


def values(chunks, name):
    return [getattr(chunk, name).value for chunk in chunks]


def test_masked_norm_of_two_rollouts_by_hand():
    """Steps 0, 1, 2: mean 1, std 1. Outcomes 0 and 1: mean 0.5, std sqrt(0.5), so -+ sqrt(0.5)."""
    rows = [steps(0.0, 2.0, outcome=1.0), steps(1.0, outcome=0.0)]
    config = ShapingConfig(weights=Weights(format=0.0), k=1.0, std_eps=0.0)
    found = by_hand(rows, config)
    process, outcome, _ = found.pools
    assert (process.size, process.mean, process.std) == (3, 1.0, 1.0)
    assert (outcome.size, outcome.mean) == (2, 0.5)
    half = math.sqrt(0.5)
    assert found.outcome == pytest.approx(half)
    assert values(found.chunks, "credit") == pytest.approx([-1 + half, 1 + half])
    assert values(found.chunks, "rest") == pytest.approx([2 * half, 1 + half])
    assert values(found.chunks, "advantage") == pytest.approx([half, 1 + half])
    assert found.path_score.value == pytest.approx(half)


def test_a_failed_format_is_gated_with_the_whole_weight():
    rows = [steps(5.0, 7.0, ok=False, format=0.0), steps(1.0)]
    config = ShapingConfig(standardize="mean_only", weights=Weights(process=1.0, outcome=1.0, format=2.0), k=0.0)
    found = by_hand(rows, config)
    assert found.gated
    assert values(found.chunks, "credit") == [4 * -0.5, 4 * -0.5]


def test_chunks_of_steps_say_their_step_and_leave_out_masked_ones():
    row = steps(1.0, 2.0, 3.0, mask=(True, False, True))
    found = by_hand([row], ShapingConfig(weights=PROCESS_ONLY, **RAW))
    assert [(chunk.start, chunk.end, chunk.token, chunk.why) for chunk in found.chunks] == [
        (0, 2, 0, "step 1"),
        (2, 3, 2, "step 3"),
    ]
    assert values(found.chunks, "advantage") == [4.0, 3.0]


def test_the_trace_of_a_kl_signal_cuts_where_the_groups_mean_moves():
    rows = [tokens(1.0, 1.0, 4.0), tokens(3.0, 3.0)]
    found = by_hand(rows, ShapingConfig(signal="kl", weights=PROCESS_ONLY, eta=0.5, **RAW))
    # u = (1+3)/2, (1+3)/2, 4/2: no move anywhere
    assert [(chunk.start, chunk.end) for chunk in found.chunks] == [(0, 3)]
    rows = [tokens(1.0, 1.0, 6.0), tokens(3.0, 3.0)]
    found = by_hand(rows, ShapingConfig(signal="kl", weights=PROCESS_ONLY, eta=0.5, **RAW))
    assert [(chunk.start, chunk.end) for chunk in found.chunks] == [(0, 2), (2, 3)]
    assert found.chunks[1].why == "moved 1"


def test_reward_shaping_standardizes_the_sum_once():
    rows = [steps(1.0, 3.0, outcome=2.0), steps(0.0, outcome=0.0)]
    config = ShapingConfig(estimator="reward_shaping", standardize="mean_only", weights=Weights(format=0.0), k=0.0)
    found = by_hand(rows, config)
    mean = (3 + 5 + 0) / 3
    assert values(found.chunks, "credit") == pytest.approx([3 - mean, 5 - mean])


def test_grpo_process_pools_everything_and_sums_what_is_to_come():
    rows = [steps(1.0, 0.0, 2.0, outcome=1.0)]
    config = ShapingConfig(estimator="grpo_process", weights=Weights(format=0.0), standardize="none")
    found = by_hand(rows, config)
    # sums 4, 3, 3: the second step adds nothing, so it is one chunk with the third
    assert [(chunk.start, chunk.end) for chunk in found.chunks] == [(0, 1), (1, 3)]
    assert values(found.chunks, "advantage") == [4.0, 3.0]
    assert values(found.chunks, "constant") == [0.0, 1.0]
    assert found.path_score is None


def test_grpo_outcome_has_one_chunk_and_reads_no_process_signal():
    rows = [replace(steps(9.0, 9.0), scores=None), steps(1.0, outcome=0.0)]
    config = ShapingConfig(estimator="grpo_outcome", weights=Weights(format=0.0), standardize="mean_only")
    found = GroupArithmetic(rows, config=config, columns=Columns()).row(0)
    assert values(found.chunks, "advantage") == [0.5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (steps(1.0, outcome=None), "outcome_reward could not be computed (null)"),
        (steps(1.0, ends=None), "the process signal could not be computed (null)"),
        (steps(1.0, ok=None), "format_ok could not be computed (null)"),
        (steps(1.0, mask=(False,)), "no token counts: the loss mask is False everywhere"),
        (steps(mask=(), ends=()), "no token counts: it is empty"),
    ],
)
def test_a_row_that_cannot_be_trained_on_says_why(row, reason):
    found = by_hand([row, steps(2.0)], ShapingConfig())
    assert not found.trainable
    assert found.reasons == (reason,)
    assert found.chunks == ()


# -- against pass_ops --------------------------------------------------------------------------------------------

SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.5]) | st.floats(-4, 4, width=32)
REWARDS = st.none() | st.sampled_from([0.0, 1.0]) | st.floats(-2, 2, width=32)


@st.composite
def rollouts(draw, signal: str):
    length = draw(st.integers(0, 7))
    row = {"loss_mask": draw(st.lists(st.booleans(), min_size=length, max_size=length))}
    if signal == "prm":
        inner = draw(st.sets(st.integers(1, length - 1))) if length > 1 else set()
        ends = sorted(inner | ({length} if length else set()))
        row["process_ends"] = ends
    count = len(row["process_ends"]) if signal == "prm" else length
    row["process_scores"] = draw(st.none() | st.lists(SCORES, min_size=count, max_size=count))
    row["outcome_reward"] = draw(REWARDS)
    row["format_reward"] = draw(REWARDS)
    row["format_ok"] = draw(st.sampled_from([True, True, False, None]))
    return row


@st.composite
def shaped_groups(draw):
    signal = draw(st.sampled_from(["prm", "kl"]))
    rows = draw(st.lists(rollouts(signal), min_size=1, max_size=5))
    estimator = draw(st.sampled_from(ESTIMATORS))
    operators = st.sampled_from(OPERATORS)
    standardize = draw(operators)
    if estimator in ("pass", "gdpo") and draw(st.booleans()):
        standardize = Standardizers(process=standardize, outcome=draw(operators), format=draw(operators))
    weight = st.sampled_from([0.0, 1.0, 0.5, -2.0])
    config = ShapingConfig(
        estimator=estimator,
        signal=signal,
        standardize=standardize,
        weights=Weights(process=draw(weight), outcome=draw(weight), format=draw(weight)),
        k=draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])),
        eta=draw(st.sampled_from([1e-8, 0.3])),
        chunk=draw(st.booleans()),
        std_ddof=draw(st.sampled_from([0, 1])),
    )
    schema = {
        "loss_mask": pa.list_(pa.bool_()),
        "process_scores": pa.list_(pa.float32()),
        "process_ends": pa.list_(pa.int32()),
        "outcome_reward": pa.float32(),
        "format_reward": pa.float32(),
        "format_ok": pa.bool_(),
    }
    dropped = {"process_ends"} if signal == "kl" else set()
    dropped |= draw(st.sampled_from([set(), {"format_reward"}, {"format_ok"}]))
    table = pa.table(
        {
            "group_id": ["g"] * len(rows),
            "rollout_id": [f"g/{i}" for i in range(len(rows))],
            **{
                name: pa.array([row[name] for row in rows], kind)
                for name, kind in schema.items()
                if name not in dropped
            },
        }
    )
    return shape(table, config, threads=1), config


@given(shaped_groups())
@settings(max_examples=200, deadline=None)
def test_what_pass_ops_shapes_is_explained_to_the_last_chunk(group):
    table, config = group
    for index in range(len(table)):
        _, _, disagreements, _ = check_group(table, index, config)
        assert disagreements == ()


# -- what a group takes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True], ids=["estimator", "streams"])
def test_a_group_is_held_as_arrays(streams, monkeypatch):
    """Bytes a token with a score: 22 as an estimator's and 36 as a stream's; Python numbers would take 58 and 630."""
    monkeypatch.setattr(stream_group, "KEPT", 0)
    rollouts, length = 160, 150
    scores = np.random.default_rng(0).normal(size=rollouts * length).astype(np.float32)
    starts = pa.array(range(0, len(scores) + 1, length), pa.int32())
    table = pa.table(
        {
            "group_id": ["g"] * rollouts,
            "rollout_id": [f"g/{i}" for i in range(rollouts)],
            "loss_mask": pa.ListArray.from_arrays(starts, pa.array([True] * len(scores))),
            "process_scores": pa.ListArray.from_arrays(starts, pa.array(scores)),
            "outcome_reward": pa.array([float(i % 2) for i in range(rollouts)], pa.float32()),
            "format_ok": [True] * rollouts,
        }
    )
    method = {"streams": {"process": Stream(signal="process"), "outcome": Stream(signal="outcome")}}
    config = ShapingConfig(**(method if streams else {"signal": "kl"}), eta=100.0)
    shaped = shape(table, config, threads=1)
    check_group(shaped.slice(0, 2), 0, config)  # what is imported and made once
    tracemalloc.start()
    try:
        _, _, disagreements, _ = check_group(shaped, 1, config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert disagreements == ()
    assert peak < 44 * len(scores)
