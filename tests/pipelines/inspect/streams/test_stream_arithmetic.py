"""What `explain` shows of streams: against `shape` and the oracle on random configurations, and worked by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator

import oracle_streams as oracle
import pyarrow as pa
import pytest
from bounded import Bounded, U
from cases_streams import beyond, largest_of, to_config, to_table, too_loose
from random_streams import configuration, table_of

from pass_ops import Fused, ShapingConfig, Stream, Transform, pool_statistics, shape
from pipelines.inspect.explain.explanation import CheckedGroup
from pipelines.inspect.explain.stream_group import StreamGroup
from pipelines.inspect.explain.stream_result import StreamArithmetic

PARTS, EACH, GROUPS = 4, 20, 4
LEFT_OUT = 0.125  # as in tests/pass_ops/test_streams_oracle.py


def groups_of(shaped: pa.Table) -> Iterator[pa.Table]:
    ids = shaped["group_id"].to_pylist()
    for group in dict.fromkeys(ids):
        yield shaped.slice(ids.index(group), ids.count(group))


def near(found: float, stored: float, slack: float) -> bool:
    """Equal to the rounding of float32, and what float64 sums in another order may differ by."""
    return abs(found - stored) <= 2**-24 * abs(found) + 2**-150 + slack


def check_numbers(done: StreamArithmetic, want: oracle.Shaped, stored: dict, slack: float) -> None:
    """Explained, shaped and the oracle's: credits, advantages, path score and ends."""
    assert (done.trainable, stored["trainable"]) == (want.trainable, want.trainable)
    if not want.trainable:
        return
    assert [chunk.end for chunk in done.chunks] == stored["chunk_ends"] == want.ends
    triples: list[tuple[float, float, Bounded]] = []
    for name, own in (("credit", "credits"), ("advantage", "advantages")):
        found = [getattr(chunk, name).value for chunk in done.chunks]
        triples += zip(found, stored[f"chunk_{own}"], getattr(want, own), strict=True)
    if want.path is not None:
        triples.append((done.path_score.value, stored["path_score"], want.path))
    for found, kept, exact in triples:
        allowed = slack + 2 * exact.err
        assert near(found, kept, allowed), (found, kept, exact)
        assert abs(found - exact.x) <= allowed + 1e-15 * abs(exact.x), (found, exact)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_streams_are_explained_to_the_last_chunk(part):
    """`CheckedGroup` finds no disagreement anywhere; where the oracle can tell, all three give the same numbers."""
    compared = made = 0
    for seed in range(part * EACH, (part + 1) * EACH):
        rng = random.Random(7000 + seed)
        chosen, every = configuration(rng)
        table = table_of(rng, every, groups=GROUPS)
        expected = oracle.shape_table(table, chosen)
        if any(beyond(shaped) for shaped in expected) or None in expected:
            made += GROUPS
            continue
        rows, config = to_table(table), to_config(chosen)
        statistics = pool_statistics([rows], config) if config.dataset_pools else None
        shaped = shape(rows, config, statistics=statistics)
        for group, want in zip(groups_of(shaped), expected, strict=True):
            made += 1
            compared += not too_loose(want)
            checked = CheckedGroup(group, config, statistics=statistics)
            for index, stored in enumerate(group.to_pylist()):
                done, _, disagreements, _ = checked.row(index)
                assert disagreements == (), (seed, chosen)
                if not too_loose(want):
                    check_numbers(done, want[index], stored, 16 * U * largest_of(want))
    assert compared >= (1 - 3 * LEFT_OUT) * made  # a configuration with one doubtful group is left out whole


def test_every_share_adds_up_to_the_fused_value_and_the_rest_to_the_advantage():
    """On random streams: A = sum of W y, the credits' sum to the end over (chunks left)^k."""
    seen = 0
    for seed in range(25):
        rng = random.Random(seed)
        chosen, every = configuration(rng)
        rows, config = to_table(table_of(rng, every, groups=2, nulls=False)), to_config(chosen)
        if config.dataset_pools:
            continue
        for group in groups_of(rows):
            for index in range(len(group)):
                done = StreamGroup(group, config=config).row(index)
                rest = 0.0
                for chunk in reversed(done.chunks):
                    size = sum(abs(share.share.value) for share in chunk.shares)
                    assert chunk.fused.value == pytest.approx(
                        sum(share.weight * share.y.value for share in chunk.shares), rel=1e-12, abs=1e-12 * size
                    )
                    rest = rest + chunk.credit.value if config.divide else chunk.credit.value
                    assert chunk.rest.value == pytest.approx(rest, rel=1e-12, abs=1e-300)
                    k = config.k if config.divide else 0.0
                    assert chunk.advantage.value == pytest.approx(rest / chunk.remaining**k, rel=1e-12, abs=1e-300)
                    seen += 1
    assert seen > 100


# -- by hand -------------------------------------------------------------------------------------------------------


def group(**changes) -> pa.Table:
    """Two rollouts: steps scored 1, 3 and 2; the first right, the second wrong and of a failed format."""
    columns = {
        "group_id": ["a", "a"],
        "rollout_id": ["a/0", "a/1"],
        "loss_mask": [[True, True, True], [True, True]],
        "process_scores": pa.array([[1.0, 3.0], [2.0]], pa.list_(pa.float32())),
        "process_ends": pa.array([[1, 3], [2]], pa.list_(pa.int32())),
        "outcome_reward": pa.array([1.0, 0.0], pa.float32()),
        "format_reward": pa.array([1.0, 0.5], pa.float32()),
        "format_ok": [True, False],
    }
    return pa.table(columns | changes)


def test_each_stream_says_what_is_subtracted_and_divided_by_and_what_it_adds():
    """process: 1, 3 and 2 have mean 2 and std 1, doubled -> 2, 6, 4: mean 4, std 2. outcome less 0.5, times 10."""
    config = ShapingConfig(
        k=1.0,
        std_eps=0.0,
        streams={
            "p": Stream(signal="process", transform=(Transform("function", path="math_by_hand:doubled"),)),
            "o": Stream(signal="outcome", operator="mean_only", weight=10.0),
        },
    )
    done = StreamGroup(group(), config=config).row(0)
    first, second = done.chunks
    assert [(share.stream, share.raw, share.center, share.scale, share.weight) for share in first.shares] == [
        ("o", 1.0, 0.5, 1.0, 10.0),
        ("p", 1.0, 4.0, 2.0, 1.0),
    ]
    assert [share.transformed.value for share in second.shares] == [1.0, 6.0]
    assert (first.fused.value, second.fused.value) == (5.0 - 1.0, 5.0 + 1.0)
    assert (first.rest.value, first.advantage.value, second.advantage.value) == (10.0, 5.0, 6.0)
    assert (second.start, second.end, second.why) == (1, 3, "step 2")
    assert [one.transform for one in done.streams] == ["", "function math_by_hand:doubled"]
    assert done.path_score.value == 5.0


def test_a_closed_gate_hands_its_weight_on_and_says_so():
    config = ShapingConfig(
        streams={
            "o": Stream(signal="outcome", operator="none", weight=2.0, gate="format", otherwise="f"),
            "f": Stream(signal="format", operator="none", weight=1.0),
        }
    )
    done = StreamGroup(group(), config=config).row(1)
    facts = {one.name: one for one in done.streams}
    assert (facts["o"].open, facts["o"].arrives, facts["f"].arrives) == (False, 0.0, 3.0)
    (chunk,) = done.chunks
    assert chunk.fused.value == 3.0 * 0.5


def test_pools_say_whose_values_they_hold():
    """The right rollout alone is pooled; the wrong one is measured against it all the same."""
    config = ShapingConfig(streams={"p": Stream(signal="process", operator="mean_only", pool="right")}, divide=False)
    done = StreamGroup(group(), config=config).row(1)
    (pool,) = done.pools
    assert (pool.stream, pool.pool, pool.size, pool.rollouts, pool.center) == ("p", "right", 2, 1, 2.0)
    assert done.chunks[0].credit.value == 0.0
    assert (done.right, done.path_score) == (False, None)


def test_states_are_pools_of_their_own():
    states = pa.array([["x", "y"], ["x"]])
    config = ShapingConfig(
        streams={"p": Stream(signal="process", operator="mean_only", pool="state", key="state")}, divide=False
    )
    done = StreamGroup(group(state=states), config=config).row(0)
    assert [(pool.pool, pool.center) for pool in done.pools] == [("state 'x'", 1.5), ("state 'y'", 3.0)]
    assert [chunk.credit.value for chunk in done.chunks] == [-0.5, 0.0]


def test_the_fused_sum_has_a_pool_and_a_dataset_is_taken_as_recorded():
    config = ShapingConfig(
        streams={"o": Stream(signal="outcome", operator="none")},
        fused=Fused(operator="mean_only", pool="dataset", per="token"),
        divide=False,
    )
    recorded = {
        "": {"count": 10.0, "mean": 0.25, "squares": 4.0, "largest": 1.0, "rollouts": 0.0, "rollout_mean": 0.25}
    }
    done = StreamGroup(group(), config=config, recorded=recorded).row(0)
    assert (done.fused.size, done.fused.center, done.fused.pool) == (10, 0.25, "dataset, by token")
    (chunk,) = done.chunks
    assert (chunk.fused.value, chunk.credit.value) == (1.0, 0.75)


def test_a_row_that_cannot_be_trained_on_names_the_null_column():
    rows = group(outcome_reward=pa.array([None, 0.0], pa.float32()))
    config = ShapingConfig(streams={"o": Stream(signal="outcome")})
    done = StreamGroup(rows, config=config).row(0)
    assert (done.trainable, done.reasons) == (False, ("outcome_reward could not be computed (null)",))
    assert StreamGroup(rows, config=config).row(1).group == 1
