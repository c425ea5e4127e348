"""Streams in the shape stage: signals joined, weights by round, pools of the whole dataset, and what is refused."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace

import pyarrow as pa
import pytest

from pass_ops import Fused, ShapingConfig, Stream, Transform, pool_statistics, shape, shards
from pass_ops.errors import OptionError, StaleInputError, StatisticsError
from pipelines.cli.parser import main
from pipelines.inspect.explain.explanation import explain_rollout
from pipelines.inspect.lint.checks import lint
from pipelines.inspect.stored import shaping_config
from pipelines.inspect.sweep.settings import grid_settings, sweep
from pipelines.options import as_dict, build
from pipelines.shaped.stage import ShapeOptions, ShapeWork, check_streams, shape_dataset
from pipelines.signals import Row
from tests.pipelines.shaped.test_stage import scored, store_signal, whole  # noqa: F401 - a fixture

MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]


@pytest.fixture
def run(scored):  # noqa: F811
    """Two outcome signals, and two process signals."""
    store_signal(
        scored, "brevity", "outcome",
        lambda row: Row(values={"outcome_reward": 1.0 / (1 + len(row["token_ids"])), "verify_status": "ok"}),
    )  # fmt: skip
    return scored


def shaped(run, options: ShapeOptions, out: str = "streams") -> shards.CompleteDataset:
    shape_dataset(rollouts=run.rollouts, signals=run.signals, out=run.out(out), options=options)
    return shards.open_dataset(run.out(out))


STREAMS = {
    "steps": Stream(signal="steps", transform=("return_to_go",), gate="right"),
    "dense": Stream(signal="opd", weight=0.5, operator="abs_max"),
    "right": Stream(signal="right"),
    "short": Stream(signal="brevity", weight=0.1, operator="rank"),
    "teacher": Stream(signal="teacher", weight=0.01, transform=(Transform("clip", low=-1.0),)),
}
OPTIONS = ShapeOptions(streams=STREAMS, process="steps", outcome="right", format="form", logprobs=("teacher",))


def on_table(**change) -> ShapingConfig:
    """OPTIONS as the columns of a shaped dataset are called."""
    names = {"steps": "process", "right": "outcome"}
    streams = {
        name: replace(stream, signal=names.get(stream.signal, stream.signal)) for name, stream in STREAMS.items()
    }
    return ShapingConfig(streams=streams, **change)


def test_every_raw_stream_stands_beside_the_result(run) -> None:
    dataset = shaped(run, OPTIONS)
    table = whole(dataset)
    expected = {
        "process_scores", "process_ends", "outcome_reward", "verify_status", "format_reward", "format_ok",
        "opd_process_scores", "brevity_outcome_reward", "brevity_verify_status", "teacher_logprobs", "status_opd",
        "status_brevity", *MADE,
    }  # fmt: skip
    assert expected <= set(table.column_names)
    again = shape(table.drop_columns(MADE), on_table())
    for name in MADE:
        assert table[name].to_pylist() == again[name].to_pylist()
    assert dataset.spec.carried["signals"]["streams"] == ["opd", "brevity"]


def test_the_stored_options_are_the_configuration_and_only_what_is_not_at_its_default(run) -> None:
    spec = shaped(run, OPTIONS).spec
    assert shaping_config(spec) == on_table()
    assert spec.options["streams"]["dense"] == {"signal": "opd", "weight": 0.5, "operator": "abs_max"}
    assert "fused" not in spec.options
    assert "chunk_by" not in spec.options


def test_toml_says_the_same(run) -> None:
    text = """
    process = "steps"
    outcome = "right"
    format = "form"
    logprobs = ["teacher"]
    [streams.steps]
    signal = "steps"
    transform = ["return_to_go"]
    gate = "right"
    [streams.dense]
    signal = "opd"
    weight = 0.5
    operator = "abs_max"
    [streams.right]
    signal = "right"
    [streams.short]
    signal = "brevity"
    weight = 0.1
    operator = "rank"
    [streams.teacher]
    signal = "teacher"
    weight = 0.01
    transform = [{name = "clip", low = -1.0}]
    """
    options = build(ShapeOptions, tomllib.loads(text), where="a file")
    assert options.as_written == OPTIONS.as_written
    assert build(ShapeOptions, json.loads(json.dumps(as_dict(options))), where="again").as_written == options.as_written


def test_the_weight_is_that_of_the_rollouts_round(run) -> None:
    dense = replace(STREAMS["dense"], weight=(1.0, 2.0, 3.0, 0.5, 9.0))  # the rollouts are of round 3
    by_round = replace(OPTIONS, streams={**STREAMS, "dense": dense})
    assert shaped(run, by_round).spec.fingerprint == shaped(run, OPTIONS, "plain").spec.fingerprint
    assert by_round.at_round(4).config.streams["dense"].weight == 9.0


POOLED = replace(OPTIONS, streams={**STREAMS, "right": replace(STREAMS["right"], pool="dataset")})
FUSED = replace(OPTIONS, fused=Fused(operator="masked_norm", pool="dataset", per="token"))


@pytest.mark.parametrize("options", [POOLED, FUSED], ids=["a stream", "the sum"])
def test_a_pool_of_the_whole_dataset_is_recorded_and_shaped_with(run, options) -> None:
    dataset = shaped(run, options)
    table = whole(dataset)
    config = shaping_config(dataset.spec)
    parts = [dataset.read_part(part).drop_columns(MADE) for part in range(2)]
    statistics = pool_statistics(parts, config)
    assert dataset.spec.carried["statistics"]["pools"] == json.loads(json.dumps(statistics.plain()["pools"]))
    again = pa.concat_tables([shape(part, config, statistics=statistics) for part in parts])
    assert table["chunk_credits"].to_pylist() == again["chunk_credits"].to_pylist()
    alone = shape(parts[0], config)["chunk_credits"].to_pylist()
    assert table["chunk_credits"].to_pylist()[: len(alone)] != alone


def work(run, spec) -> ShapeWork:
    signals = {name: run.signal(name) for name in POOLED.roles}
    return ShapeWork(spec=spec, rollouts=run.rollouts, signals=signals, out="shaped", options=POOLED)


def test_a_pool_over_a_stale_pass_is_refused(run) -> None:
    spec = shaped(run, POOLED).spec
    work(run, spec).setup()
    statistics = spec.carried["statistics"]
    stale = {**statistics, "inputs": {**statistics["inputs"], "right": "0" * 64}}
    message = (
        f"the statistics of pool 'dataset' were recorded over right of content digest {'0' * 16}, and it has "
        f"{spec.inputs['right'].content_digest[:16]} now: values would be measured against other data. "
        "Run the shape stage again (--overwrite)"
    )
    with pytest.raises(StaleInputError, match=re.escape(message)):
        work(run, replace(spec, carried={**spec.carried, "statistics": stale})).setup()
    other = {**statistics, "options": "f" * 64}
    with pytest.raises(StatisticsError, match="recorded with other shaping options"):
        work(run, replace(spec, carried={**spec.carried, "statistics": other})).setup()
    without = {name: value for name, value in spec.carried.items() if name != "statistics"}
    with pytest.raises(StaleInputError, match="carries no statistics of a first pass"):
        work(run, replace(spec, carried=without)).setup()


@pytest.mark.parametrize("options", ["OPTIONS", "POOLED"])
def test_every_stored_rollout_is_explained_and_lint_runs(run, options, capsys, monkeypatch) -> None:
    dataset = shaped(run, {"OPTIONS": OPTIONS, "POOLED": POOLED}[options])
    trainable = 0
    for rollout_id in whole(dataset)["rollout_id"].to_pylist():
        found = explain_rollout(dataset.url, rollout_id)
        assert found.disagreements == (), rollout_id
        trainable += found.arithmetic.trainable
    assert trainable
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["explain", dataset.url, rollout_id]) == 0
    shown = capsys.readouterr().out
    assert "teacher_logprobs (token)" in shown
    assert "clip (low -1)" in shown
    assert ("right (dataset)" in shown) == (options == "POOLED")
    assert "The stored values agree" in shown
    lint(dataset.url)


def test_sweep_compares_settings_of_streams(run) -> None:
    settings = grid_settings(POOLED, {"streams.dense.weight": [0.5, 0.0], "k": [0.7]})
    results = sweep(rollouts=run.rollouts, signals=run.signals, settings=settings)
    assert [result.correlation for result in results[:2]] == [pytest.approx(1.0)] * 2
    assert results[2].correlation < 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"outcome": "brevity", "streams": {"a": Stream(signal="outcome")}},
            "option streams: a stream names the signal 'outcome', but option outcome is 'brevity', whose columns stand "
            "under that name; name 'brevity', rename the signal, or leave option outcome out",
        ),
        (
            {"streams": {"a": Stream(signal="right")}, "signal": "kl"},
            "option signal: with streams it is not read; a stream's columns say what it is, and leave signal out",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(change, message) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        check_streams(ShapeOptions(**change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ShapeOptions(streams={"a": Stream(signal="right", transform=("return_to_go",))}, outcome="right"),
            "option streams.a: transform 'return_to_go' runs along the steps or tokens of a rollout, but signal "
            "'outcome' has one value for each rollout",
        ),
        (
            ShapeOptions(streams={"a": Stream(signal="steps", gate="right")}, right="opd"),
            "option right: signal 'opd' has a value for each token; name one with a value for each rollout",
        ),
        (
            ShapeOptions(streams={"a": Stream(signal="steps", gate="format")}),
            "column 'format_ok' is missing: gate 'format' needs it",
        ),
    ],
    ids=["level", "right", "format"],
)
def test_what_the_kinds_of_signals_rule_out_is_refused_before_anything_runs(run, options, message) -> None:
    with pytest.raises((OptionError, ValueError), match=re.escape(message)):
        shaped(run, options)


def test_a_signal_called_like_a_column_of_rollouts_is_refused(run) -> None:
    """`entropy` would be read as the rollouts' own column wherever generate stored it."""
    store_signal(
        run, "entropy", "outcome", lambda row: Row(values={"outcome_reward": 1.0, "verify_status": "ok"})
    )  # fmt: skip
    with pytest.raises(OptionError, match=r"'entropy_outcome_reward', but the column 'entropy' of another signal, or"):
        shaped(run, ShapeOptions(streams={"a": Stream(signal="entropy")}))


def test_a_stream_that_only_one_without_weight_hands_on_to_needs_no_signal(run) -> None:
    streams = {
        "a": Stream(signal="right"),
        "b": Stream(signal="right", weight=0.0, gate="right", otherwise="c"),
        "c": Stream(signal="nobody", weight=(0.0, 0.0)),
    }
    assert whole(shaped(run, ShapeOptions(streams=streams, outcome="right")))["trainable"].to_pylist()
