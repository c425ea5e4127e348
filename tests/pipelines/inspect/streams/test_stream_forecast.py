"""What added steps earn under streams: the oracle over rollouts padded by hand, and worked by hand."""

from __future__ import annotations

import random

import numpy as np
import oracle_streams as oracle
import pyarrow as pa
import pytest
from cases_streams import to_config, to_table
from oracle_streams import Fused, Options, Stream, Table

from pass_ops import ShapingConfig, pool_statistics
from pass_ops import Stream as ShapedStream
from pipelines.inspect.forecast import forecast, given_levels, poor_level, score_levels
from pipelines.inspect.scored import scored_columns

COLUMNS = {
    "process_scores": "numbers",
    "process_ends": "ends",
    "teacher_logprobs": "numbers",
    "outcome_reward": "number",
    "format_ok": "bool",
}
WIDTH = 3


def group_of() -> list[dict]:
    """Three rollouts of 2, 3 and 4 steps of three tokens, some of which do not count; a score a step and a token."""
    chance = random.Random(3)
    made = []
    for index in range(3):
        steps = 2 + index
        mask = [chance.random() > 0.2 for _ in range(WIDTH * steps)]
        mask[0] = mask[-1] = True
        made.append(
            {
                "mask": mask,
                "process_scores": [float(np.float32(chance.gauss(0, 1))) for _ in range(steps)],
                "process_ends": [WIDTH * (step + 1) for step in range(steps)],
                "teacher_logprobs": [float(np.float32(chance.gauss(0, 1))) * counts for counts in mask],
                "outcome_reward": float(index == 1),
                "format_ok": index < 2,
            }
        )
    return made


STEPS = Stream("process")
CASES = {
    "as PASS": {"p": STEPS, "o": Stream("outcome")},
    "difference": {"p": Stream("process", transform=(("difference", {"start": "first"}),)), "o": Stream("outcome")},
    "rank, gated": {
        "p": Stream("process", operator="rank", gate="right", otherwise="o"),
        "o": Stream("outcome", operator="mean_only", weight=0.5),
    },
    "right pool": {"p": Stream("process", pool="right", gate="format"), "o": Stream("outcome", operator="none")},
    "a score a token": {"t": Stream("teacher", operator="mean_only"), "o": Stream("outcome")},
    "both": {"p": STEPS, "t": Stream("teacher", operator="abs_max", weight=0.5)},
    "joint, to go": {
        "p": Stream("process", pool="joint", after=(("return_to_go", {}),)),
        "o": Stream("outcome", pool="joint"),
    },
}


def by_hand(rollout: dict, *, position: str, count: int, per_token: bool, values: dict[str, float]) -> dict:
    """`count` steps more, of three tokens each, or of one where a step is a token."""
    width = 1 if per_token else WIDTH
    elements = len(rollout["mask"]) // width
    after = {"start": 0, "middle": max(1, elements // 2), "end": elements}[position]
    at = after * width
    copied = [max(after, 1) * width - width + n for n in range(width)] * count
    mask = [*rollout["mask"][:at], *[True] * len(copied), *rollout["mask"][at:]]
    tokens = rollout["teacher_logprobs"]
    added = [values.get("teacher_logprobs", tokens[t]) for t in copied]
    tokens = [*tokens[:at], *added, *tokens[at:]]
    scores, ends = rollout["process_scores"], rollout["process_ends"]
    if not per_token:
        scores = [*scores[:after], *[values["process_scores"]] * count, *scores[after:]]
        ends = [WIDTH * (step + 1) for step in range(len(scores))]
    return rollout | {"mask": mask, "teacher_logprobs": tokens, "process_scores": scores, "process_ends": ends}


def first_counted(shaped: oracle.Shaped, rollout: dict) -> float:
    return shaped.advantages[np.searchsorted(shaped.ends, rollout["mask"].index(True), side="right")].x


@pytest.mark.parametrize("fused", [None, Fused("masked_norm", per="token")])
@pytest.mark.parametrize("case", CASES)
def test_streams_give_what_the_oracle_gives_rollouts_padded_by_hand(case, fused):
    streams, per_token = CASES[case], case == "a score a token"
    columns = {name: kind for name, kind in COLUMNS.items() if not (per_token and name.startswith("process"))}
    group, options = group_of(), Options(streams, k=0.6, fused=fused)
    if per_token:
        group = [rollout | {"process_scores": [], "process_ends": []} for rollout in group]
    table, config = to_table(Table([group], columns)), to_config(options)
    levels = given_levels(table, [0.8], config=config)
    values = {name: float(np.float32(value)) for name, value in levels[0].values.items()}
    (before,) = oracle.shape_table(Table([group], columns), options)
    for found in forecast(table, config, levels=levels, steps=[1, 3]):
        gains = []
        for index, rollout in enumerate(group):
            longer = by_hand(rollout, position=found.position, count=found.steps, per_token=per_token, values=values)
            whole = [*group[:index], longer, *group[index + 1 :]]
            (after,) = oracle.shape_table(Table([whole], columns), options)
            gains.append(first_counted(after[index], longer) - first_counted(before[index], rollout))
        assert found.total["all"].value == pytest.approx(np.mean(gains), abs=2e-5), found.position
        assert found.score == 0.8
        assert found.column == ("teacher_logprobs" if per_token else "process_scores")


def steps_table(*scores: list[float]) -> pa.Table:
    return pa.table(
        {
            "group_id": ["q"] * len(scores),
            "loss_mask": [[True] * len(row) for row in scores],
            "judge_process_scores": pa.array(scores, pa.list_(pa.float32())),
            "judge_process_ends": pa.array([list(range(1, len(row) + 1)) for row in scores], pa.list_(pa.int32())),
            "outcome_reward": pa.array([float(n == 0) for n in range(len(scores))], pa.float32()),
        }
    )


def test_a_pool_of_the_dataset_stays_as_recorded():
    """k = 0, scores less the dataset's mean 2, which was recorded over more than this table: m steps of 5 pay 3 m."""
    config = ShapingConfig(streams={"j": ShapedStream(signal="judge", operator="mean_only", pool="dataset")}, k=0.0)
    rows = steps_table([1.0, 3.0], [1.0])
    recorded = pool_statistics([rows, steps_table([3.0])], config)
    assert recorded.pools["j"]["mean"] == 2.0
    levels = given_levels(rows, [5.0], config=config)
    for found in forecast(rows, config, levels=levels, steps=[4], statistics=recorded):
        assert found.total["all"].value == pytest.approx(12.0)
        assert found.column == "judge_process_scores"


def test_levels_are_those_of_the_streams_that_are_read():
    rows = steps_table([1.0, 3.0], [2.0])
    config = ShapingConfig(streams={"j": ShapedStream(signal="judge")})
    assert [level.score for level in score_levels(rows, (0.0, 0.5, 1.0), config=config)] == [1.0, 2.0, 3.0]
    assert poor_level(rows, config=config).score == 1.0
    assert score_levels(rows, (0.5,))[0].score is None  # without streams process_scores is asked about


def test_rewards_alone_pay_nothing_for_padding():
    rows = steps_table([1.0, 3.0], [2.0])
    config = ShapingConfig(streams={"o": ShapedStream(signal="outcome")}, divide=False)
    assert scored_columns(rows, config).ends == {}
    for found in forecast(rows, config):
        assert (found.score, found.total["all"].value) == (None, 0.0)
