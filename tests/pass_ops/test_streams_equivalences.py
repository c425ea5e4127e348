"""Every estimator as streams (docs/spec/streams.md section 10), over groups drawn to reach the method's corners."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from cases import to_table
from hypothesis import given
from hypothesis import strategies as st
from strategies import EXPONENTS, MODERATE, OPERATORS, SIGNALS, WEIGHTS, examples, groups
from test_bits import bits, copied, pieces

from pass_ops import Fused, ShapingConfig, Stream, Weights, pool_statistics, shape, token_advantages
from pass_ops.streams import table as stream_table

ETA = (1e-8, 0.2718281828)  # the scores drawn lie on a grid; this step does not
SOME = examples(60)


def stream(signal, weight, operator, **options):
    return Stream(signal=signal, weight=weight, operator=operator, **options)


def without(table, column):
    return table.drop_columns(column) if column in table.column_names else table


def gate(name, table):
    return {"gate": "format", "otherwise": name} if "format_ok" in table.column_names else {}


def as_streams(estimator, n, weights, signal, table, chunk):
    """The streams and further options that stand for an estimator."""
    p, o, f = weights
    closed = gate("format", table) if estimator == "pass" else {}
    joint = {"pool": "joint"} if estimator == "grpo_process" else {}
    n = {"rloo": "leave_one_out", "dr_grpo": "mean_only", "prime": "leave_one_out"}.get(estimator, n)
    raw = "none" if estimator in ("reward_shaping", "grpo_outcome") else n
    back = {"after": ("return_to_go",)} if estimator in ("grpo_process", "prime") else {}
    streams = {"outcome": stream("outcome", o, raw, **closed, **joint), "format": stream("format", f, raw, **joint)}
    if estimator in ("pass", "reward_shaping", "grpo_process", "prime"):
        streams["process"] = stream("process", p, raw, **closed, **joint, **back)
    options = {"chunk": chunk} if estimator in ("pass", "reward_shaping") else {"divide": False}
    if estimator in ("pass", "reward_shaping") and chunk:
        options["chunk_by"] = ("process",)
    if estimator == "reward_shaping" and signal == "kl" and chunk:
        streams["trace"] = stream("process", 0.0, n)
        options["chunk_by"] = ("trace",)
    if estimator in ("reward_shaping", "grpo_outcome") and n != "none":
        options["fused"] = Fused(operator=n)
    if estimator == "prime":
        options["fused"] = Fused(operator="masked_norm", per="token")
    if estimator in ("grpo_process", "prime"):
        options["chunk"] = False
    return {"streams": streams, **options}


def unmasked(shaped):
    rows = zip(token_advantages(shaped).to_pylist(), shaped["loss_mask"].to_pylist(), strict=True)
    return [[a for a, counts in zip(row, mask, strict=True) if counts] for row, mask in rows]


def assert_same(found, expected, *, chunks):
    assert found["trainable"].to_pylist() == expected["trainable"].to_pylist()
    for a, b in zip(unmasked(found), unmasked(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    if chunks:
        assert found["chunk_ends"].to_pylist() == expected["chunk_ends"].to_pylist()
        a, b = found["path_score"].to_pylist(), expected["path_score"].to_pylist()
        assert [x is None for x in a] == [x is None for x in b]
        np.testing.assert_allclose([x or 0.0 for x in a], [x or 0.0 for x in b], rtol=2e-5, atol=2e-6)


EACH = ("pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime")


@pytest.mark.parametrize("estimator", EACH)
@SOME
@given(data=st.data())
def test_every_estimator_is_a_setting_of_streams(estimator, data):
    signal = data.draw(st.sampled_from(SIGNALS))
    some = data.draw(groups(signal, least=1, most=4, magnitudes=(1.0,), sizes=("small", "wide")))
    table = to_table(some)
    table = table if data.draw(st.booleans()) and estimator == "pass" else without(table, "format_ok")
    weights = [data.draw(st.sampled_from([w for w in WEIGHTS if w])) for _ in range(3)]
    operators = [n for n in OPERATORS if n != "leave_one_out" or estimator not in ("reward_shaping", "grpo_outcome")]
    n, chunk = data.draw(st.sampled_from(operators)), data.draw(st.booleans())
    common = {"k": data.draw(st.sampled_from(EXPONENTS)), "eta": data.draw(st.sampled_from(ETA))}
    process, outcome, form = weights
    classic = ShapingConfig(
        estimator=estimator, signal=signal, standardize=n, chunk=chunk,
        weights=Weights(process=process, outcome=outcome, format=form), **common,
    )  # fmt: skip
    general = ShapingConfig(**as_streams(estimator, n, weights, signal, table, chunk), **common)
    cut_otherwise = ("grpo_process", "prime")
    assert_same(shape(table, general), shape(table, classic), chunks=estimator not in cut_otherwise)


@st.composite
def configurations(draw):
    """Some configuration over the columns of the drawn tables, and its table."""
    signal = draw(st.sampled_from(SIGNALS))
    some = draw(groups(signal, least=1, most=6, magnitudes=MODERATE))
    table = to_table(some)
    gates = st.sampled_from(("always", "right", "wrong", "single_outcome", "mixed", "format"))
    along = st.lists(
        st.sampled_from(("difference", "min_form", "return_to_go", "compress", "length_normalization")), max_size=2
    ).map(tuple)
    names = draw(st.lists(st.sampled_from(("process", "outcome", "format")), min_size=1, max_size=5))
    streams = {}
    for number, name in enumerate(names):
        streams[f"s{number}"] = Stream(
            signal=name,
            weight=draw(st.sampled_from([w for w in WEIGHTS if w])),
            transform=draw(along) if name == "process" else (),
            operator=draw(st.sampled_from(("masked_norm", "mean_only", "abs_max", "none"))),
            pool=draw(st.sampled_from(("group", "right", "wrong"))),
            gate=draw(gates),
        )
    fused = draw(st.sampled_from((None, Fused(operator="masked_norm"), Fused(operator="mean_only", per="token"))))
    config = ShapingConfig(streams=streams, fused=fused, chunk=draw(st.booleans()), divide=draw(st.booleans()))
    return table, list(itertools.accumulate(map(len, some), initial=0)), config


@SOME
@given(case=configurations(), order=st.randoms())
def test_the_order_of_streams_changes_no_bit(case, order):
    table, _, config = case
    names = list(config.streams)
    order.shuffle(names)
    other = ShapingConfig(
        streams={name: config.streams[name] for name in names}, fused=config.fused, chunk=config.chunk,
        divide=config.divide,
    )  # fmt: skip
    assert other == config
    assert bits(shape(table, other)) == bits(shape(table, config))


@SOME
@given(case=configurations())
def test_a_stream_of_weight_0_changes_no_bit_and_needs_no_column(case):
    table, _, config = case
    idle = Stream(signal="nowhere", weight=0.0, pool="state", key="nothing", gate="right")
    other = ShapingConfig(
        streams={**config.streams, "idle": idle}, fused=config.fused, chunk=config.chunk, divide=config.divide
    )
    assert bits(shape(table, other)) == bits(shape(table, config))


@SOME
@given(case=configurations(), threads=st.integers(1, 4), values=st.sampled_from((1, 10, 100)), data=st.data())
def test_threads_spans_and_shards_change_no_bit(case, threads, values, data):
    table, bounds, config = case
    whole = bits(shape(table, config, threads=1))
    with mock.patch.multiple(stream_table, LEAST_SPAN_VALUES=values, MOST_SPAN_VALUES=values):
        assert bits(shape(table, config, threads=threads)) == whole
    cuts = data.draw(st.sets(st.sampled_from(bounds)))
    shards = [shape(copied(shard), config) for shard in pieces(table, cuts)]
    assert bits(pa.concat_tables(shards)) == whole


@SOME
@given(case=configurations(), data=st.data())
def test_two_passes_over_parts_are_one_over_the_whole(case, data):
    table, bounds, config = case
    kind = data.draw(st.sampled_from(("masked_norm", "mean_only", "abs_max", "leave_one_out", "mean_normalized")))
    config = ShapingConfig(
        streams={"all": Stream(signal="outcome", operator=kind, pool="dataset"), **config.streams},
        chunk=config.chunk, divide=config.divide,
    )  # fmt: skip
    cuts = data.draw(st.sets(st.sampled_from(bounds)))
    parts = pieces(table, cuts)
    statistics = pool_statistics(parts, config)
    shards = [shape(part, config, statistics=statistics) for part in parts]
    assert_same(pa.concat_tables(shards), shape(table, config), chunks=True)


@SOME
@given(case=configurations(), values=st.sampled_from((1, 100)))
def test_what_streams_contribute_is_what_each_makes_alone_and_adds_up_to_the_sum(case, values):
    table, _, config = case
    table = table.filter(shape(table, config)["trainable"])
    config = replace(config, fused=None)
    found: dict[str, list[np.ndarray]] = {}
    with mock.patch.multiple(stream_table, LEAST_SPAN_VALUES=values, MOST_SPAN_VALUES=values):
        for name, added_K in stream_table.stream_contributions(table, config, statistics=None):
            found.setdefault(name, []).append(added_K)
    summed = credits_of(shape(table, config))
    added = [np.concatenate(parts) for parts in found.values()]
    sizes = np.sum(np.abs(added), axis=0) if added else np.zeros(len(summed))
    np.testing.assert_allclose(np.sum(added, axis=0) if added else sizes, summed, atol=1e-6 * sizes.max(initial=1.0))
    cutters = stream_table.plan(table, config).cutters
    for name, parts in found.items():
        streams = {
            one: stream if one == name else replace(stream, weight=0.0) for one, stream in config.streams.items()
        }
        alone = replace(config, streams=streams, chunk_by=cutters)
        made = np.concatenate(parts)
        np.testing.assert_allclose(made, credits_of(shape(table, alone)), rtol=1e-6, atol=1e-30)


def credits_of(shaped):
    return np.array([credit for row in shaped["chunk_credits"].to_pylist() for credit in row], np.float32)
