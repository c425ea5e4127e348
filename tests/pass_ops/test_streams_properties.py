"""Changes of streams that must not change the result, or change it in a known way."""

from __future__ import annotations

import random
from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from cases import to_config as to_estimator
from cases import to_table as to_estimator_table
from cases_streams import MADE, to_config, to_table
from estimators_as_streams import ROWS, WITH_CHUNKS, as_streams, as_table, has_row
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import shape_group
from oracle_streams import Options, Stream, Table
from random_streams import configuration, table_of
from strategies import MODERATE, SIGNALS, examples, groups, options

from pass_ops import shape, shaping, token_advantages
from pass_ops.errors import OutputOverflowError

SEEDS = range(12)


def case(seed: int, **plan: object) -> tuple[Table, Options]:
    """Of those on which nothing is beyond float32."""
    rng = random.Random(f"equivalences {seed}")
    while True:
        chosen, every = configuration(rng)
        table = table_of(rng, every, groups=6, **plan)
        try:
            made(table, chosen)
        except OutputOverflowError:
            continue
        return table, chosen


def made(table: Table | pa.Table, o: Options, **how: object) -> pa.Table:
    arrow = to_table(table) if isinstance(table, Table) else table
    return shape(arrow, to_config(o), **how).select(MADE)


def tokens(table: pa.Table) -> np.ndarray:
    return token_advantages(table).flatten().to_numpy()


# --- today's estimators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("estimator", ROWS)
@examples(10)
@given(data=st.data())
def test_an_estimator_is_its_streams(estimator, signal, data):
    """As near as the sums, taken in another order, allow: 1e-12 of what entered them, and float32's last place."""
    chosen, columns = data.draw(options(estimator, signal))
    some = data.draw(groups(signal, columns=columns, least=1, magnitudes=MODERATE))
    assume(has_row(chosen, some))
    table = as_table(some)
    before = shape(to_estimator_table(some), to_estimator(chosen)).select(MADE)
    after = made(table, as_streams(chosen, gated="format_ok" in table.columns))
    start = 0
    for group in some:
        chosen.fragile.clear()
        size = max((one.size for one in shape_group(group, chosen)), default=0.0)
        pair = [rows.slice(start, len(group)) for rows in (before, after)]
        start += len(group)
        if chosen.fragile:
            continue
        assert pair[0]["trainable"].equals(pair[1]["trainable"])
        assert tokens(pair[1]) == pytest.approx(tokens(pair[0]), rel=2e-7, abs=1e-12 * size + 1e-44)
        if estimator in WITH_CHUNKS:
            assert pair[0]["chunk_ends"].equals(pair[1]["chunk_ends"])


# --- streams among themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_of_weight_0_changes_no_bit_and_needs_no_column(seed):
    table, o = case(seed)
    more = {
        "nowhere": Stream("nothing", weight=0.0, operator="rank", pool="right"),
        "without_key": Stream("nothing", weight=0.0, pool="state", key="none", gate="format", otherwise="nowhere"),
    }
    if not (o.fused and o.fused.pool == "dataset"):
        more["pooled"] = Stream("outcome", weight=0.0, pool="dataset")
    assert made(table, replace(o, streams={**more, **o.streams})).equals(made(table, o))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_streams_changes_no_bit(seed):
    table, o = case(seed)
    expected = made(table, o)
    for turn in range(3):
        names = random.Random(turn).sample(sorted(o.streams), len(o.streams))
        chunk_by = tuple(random.Random(turn).sample(o.chunk_by, len(o.chunk_by)))
        turned = replace(o, streams={name: o.streams[name] for name in names}, chunk_by=chunk_by)
        assert made(table, turned).equals(expected)


@pytest.mark.parametrize("gates", [("right", "wrong"), ("mixed", "single_outcome")])
@pytest.mark.parametrize("seed", SEEDS)
def test_two_gates_that_share_the_rollouts_are_the_gate_always(seed, gates):
    """Bit for bit: in each rollout one of the two has weight 0. (The pool is the group's, whatever the gate.)"""
    table, o = case(seed)
    name = min(name for name, s in o.streams.items() if s.weight != 0 or name in o.chunk_by)
    alone = replace(o.streams[name], gate="always", otherwise=None, pool="group", key=None, weight=0.75)
    whole = replace(o, streams={"a": alone}, chunk_by=("a",) if name in o.chunk_by else ())
    halves = {"a": replace(alone, gate=gates[0]), "b": replace(alone, gate=gates[1])}
    # `right` is read in both, so that both leave out the same rollouts.
    known = {"zero": Stream("outcome", weight=1.0, operator="none", transform=(("clip", {"low": 0.0, "high": 0.0}),))}
    whole, split = (replace(whole, streams={**s, **known}, right="outcome") for s in (whole.streams, halves))
    assert made(table, split).equals(made(table, whole))


@pytest.mark.parametrize(
    "operator", ["masked_norm", "mean_only", "leave_one_out", "rank", "abs_max", "mean_normalized"]
)
@pytest.mark.parametrize("signal", ["process", "outcome"])
def test_pools_and_gates_of_right_and_wrong_are_two_groups(operator, signal):
    """A group shaped with (pool right, gate right) and (pool wrong, gate wrong) is its two halves shaped alone."""
    rng = random.Random(f"{operator} {signal}")
    group = []
    for _ in range(9):
        ends = sorted(rng.sample(range(1, 9), 3))
        scores = [rng.gauss(1, 1) for _ in ends]
        outcome = rng.choice((-2.0, -1.0, 1.0, 2.0))
        mask = [rng.random() < 0.8 for _ in range(ends[-1])]
        group.append({"mask": mask, "process_scores": scores, "process_ends": ends, "outcome_reward": outcome})
    columns = {"process_scores": "numbers", "process_ends": "ends", "outcome_reward": "number"}
    group.sort(key=lambda r: r["outcome_reward"] <= 0)
    right = [r for r in group if r["outcome_reward"] > 0]
    assert 1 < len(right) < 8
    both = {half: Stream(signal, operator=operator, pool=half, gate=half) for half in ("right", "wrong")}
    together = made(Table([group], columns), Options(both))
    apart = made(Table([right, group[len(right) :]], columns), Options({"a": Stream(signal, operator=operator)}))
    assert together.equals(apart)
    assert np.any(tokens(together))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_heir_is_a_second_stream_with_the_opposite_gate(seed):
    table, _ = case(seed)
    heir = Stream("outcome", weight=0.5, operator="mean_only")
    giver = Stream("outcome", weight=2.0, operator="rank", gate="right")
    handed = {"giver": replace(giver, otherwise="heir"), "heir": heir}
    spelt = {"giver": giver, "heir": heir, "second": replace(heir, weight=2.0, gate="wrong")}
    one, other = (tokens(made(table, Options(streams))) for streams in (handed, spelt))
    assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_twice_the_weights_are_twice_the_advantages(seed):
    table, o = case(seed)
    o = replace(o, fused=None)
    double = {name: replace(s, weight=2 * s.weight) for name, s in o.streams.items()}
    once, twice = made(table, o), made(table, replace(o, streams=double))
    assert np.allclose(tokens(twice), 2 * tokens(once), rtol=2e-7, atol=1e-44)
    assert once["chunk_ends"].equals(twice["chunk_ends"])


@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_do_not_depend_on_weights_and_gates(seed):
    table, o = case(seed)
    other = {name: replace(s, weight=-3.0 * s.weight) for name, s in o.streams.items()}
    assert made(table, replace(o, streams=other))["chunk_ends"].equals(made(table, o)["chunk_ends"])


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_by_round_are_the_weights_of_the_round(seed):
    table, o = case(seed)
    name = sorted(o.streams)[0]
    weight = o.streams[name].weight
    listed = to_config(replace(o, streams={**o.streams, name: replace(o.streams[name], weight=[7.0, weight])}))
    for number in (1, 2, 100):
        assert shape(to_table(table), listed.at_round(number)).select(MADE).equals(made(table, o))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_number_of_threads_gives_the_same_bits(seed):
    table, o = case(seed)
    expected = made(table, o, threads=1)
    with mock.patch.object(shaping, "LEAST_SPAN_VALUES", 1):
        for threads in (1, 2, 5):
            assert made(table, o, threads=threads).equals(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_shaped_alone_have_the_same_bits_but_for_the_data_sets_pools(seed):
    table, o = case(seed)
    within = {n: replace(s, pool="group" if s.pool == "dataset" else s.pool) for n, s in o.streams.items()}
    o = replace(o, streams=within, fused=o.fused and replace(o.fused, pool="group"))
    alone = [made(replace(table, groups=[group]), o) for group in table.groups]
    assert pa.concat_tables(alone).combine_chunks().equals(made(table, o).combine_chunks())
