"""The shape stage as a Beam job: rollouts and signals in, one shaped dataset that can travel alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, shape, shards
from pass_ops.errors import FingerprintMismatchError, IncompleteDatasetError, OptionError, StaleInputError
from pass_ops.shards import splice, tables
from pass_ops.shards.encoding import encoded
from pass_ops.shards.schemas import conform
from pass_ops.shards.tables import part_bytes
from pipelines.inspect.explain.explanation import NotExplainableError, explain_rollout
from pipelines.inspect.lint.checks import lint
from pipelines.parts.inputs import AlignmentError, WrongInputError
from pipelines.shaped.stage import ShapeOptions, ShapeWork, join_signals, resolve_signal, shape_dataset
from pipelines.signals import Row, sidecar

OPTIONS = ShapeOptions(process="steps", outcome="right", format="form", reference="start", logprobs=("teacher",))


def store_signal(run, name: str, kind: str, rows: Callable[[dict], Row]) -> None:
    """A stored signal whose rows are a function of the rollouts' rows."""
    rollouts = shards.open_dataset(run.rollouts)
    spec = shards.DatasetSpec(
        stage="score",
        stage_version=1,
        options={"kind": kind},
        parts=2,
        inputs={"rollouts": rollouts.ref(run.signal(name))},
    )
    dataset = shards.create_dataset(run.signal(name), spec)
    for part in range(2):
        table = rollouts.read_part(part)
        shards.commit_part(dataset, part, sidecar(kind, table, [rows(row) for row in table.to_pylist()]))
    shards.finalize(dataset)


def step_row(row: dict) -> Row:
    """One step a token; the second rollout of p1 timed out."""
    if row["rollout_id"] == "p1/1":
        return Row("timeout", "too slow")
    length = len(row["token_ids"])
    return Row(
        values={"process_scores": [float(t % 3) for t in range(length)], "process_ends": list(range(1, length + 1))}
    )


def outcome_row(row: dict) -> Row:
    """Right where the text ends with "=5"."""
    right = row["text"].endswith("=5")
    return Row(values={"outcome_reward": float(right), "verify_status": "ok" if right else "wrong"})


@pytest.fixture
def scored(run):
    store_signal(run, "steps", "process_steps", step_row)
    store_signal(run, "right", "outcome", outcome_row)
    store_signal(run, "form", "format", lambda row: Row(values={"format_reward": 1.0, "format_ok": bool(row["text"])}))
    for name, value in (("start", -1.0), ("teacher", -2.0)):
        store_signal(run, name, "logprobs", lambda row, v=value: Row(values={"logprobs": [v] * len(row["token_ids"])}))
    store_signal(
        run, "opd", "process_tokens", lambda row: Row(values={"process_scores": [0.5] * len(row["token_ids"])})
    )
    return run


def shape_run(run, options: ShapeOptions = OPTIONS, out: str = "shaped") -> shards.CompleteDataset:
    shape_dataset(rollouts=run.rollouts, signals=run.signals, out=run.out(out), options=options)
    return shards.open_dataset(run.out(out))


def whole(dataset: shards.CompleteDataset) -> pa.Table:
    return pa.concat_tables([dataset.read_part(part) for part in range(dataset.spec.parts)])


def test_a_shaped_dataset_has_the_contracts_columns(scored) -> None:
    table = whole(shape_run(scored))
    kinds = {"steps": "process_steps", "right": "outcome", "form": "format", "start": "logprobs", "teacher": "logprobs"}
    assert set(table.column_names) == set(shards.shaped_schema(kinds, reference="start").names)
    assert {"reference_logprobs", "teacher_logprobs", "status_steps", "detail_right"} <= set(table.column_names)
    assert table["reference_logprobs"][0].as_py() == [-1.0] * 8
    assert table["teacher_logprobs"][0].as_py() == [-2.0] * 8


@pytest.mark.parametrize("small", [0, tables.SMALL], ids=["copied", "small: all encoded"])
def test_what_the_inputs_hold_encoded_is_copied_and_no_byte_depends_on_it(scored, monkeypatch, small) -> None:
    seen = []

    def noted(table, *args, **options):
        if len(table):
            seen.append(set(table.column_names))
        return encoded(table, *args, **options)

    monkeypatch.setattr(splice, "encoded", noted)
    monkeypatch.setattr(tables, "SMALL", small)
    shaped = shape_run(scored)
    made = {"chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable", "policy_digest", "round"}
    assert seen == ([] if small else [made] * shaped.spec.parts)
    for part in range(shaped.spec.parts):
        content = Path(shaped.url, shaped.parts[part].data).read_bytes()
        assert content == part_bytes(conform(shaped.read_part(part), "shape"), "shape")


def test_the_advantages_are_those_of_pass_ops_on_the_joined_table(scored) -> None:
    table = whole(shape_run(scored))
    rollouts = whole(shards.open_dataset(scored.rollouts))
    signals = {name: whole(shards.open_dataset(scored.signal(name))) for name in ("steps", "right", "form")}
    expected = shape(join_signals(rollouts, signals), ShapingConfig())
    for name in ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"):
        assert table[name].to_pylist() == expected[name].to_pylist()
    assert any(value for row in table["chunk_advantages"].to_pylist() for value in row)


def test_a_row_with_a_null_signal_is_not_trainable_and_its_group_goes_on(scored) -> None:
    rows = {row["rollout_id"]: row for row in whole(shape_run(scored)).to_pylist()}
    lost = rows["p1/1"]
    assert (lost["status_steps"], lost["detail_steps"], lost["process_scores"]) == ("timeout", "too slow", None)
    assert (lost["trainable"], lost["path_score"]) == (False, None)
    assert (lost["chunk_ends"], lost["chunk_credits"], lost["chunk_advantages"]) == (
        [len(lost["token_ids"])],
        [0.0],
        [0.0],
    )
    assert rows["p1/0"]["trainable"] is True
    assert [name for name, row in rows.items() if not row["trainable"]] == ["p1/1", "p2/1"]


def test_it_says_whose_rollouts_these_are_and_copies_what_the_trainer_needs(scored) -> None:
    dataset = shape_run(scored)
    source = shards.open_dataset(scored.rollouts).spec
    table = whole(dataset)
    assert set(table["round"].to_pylist()) == {3}
    assert set(table["policy_digest"].to_pylist()) == {source.carried["policy_digest"]}
    for name in ("sampling", "tokenizer_digest", "vocabulary", "round", "policy_digest"):
        assert dataset.spec.carried[name] == source.carried[name]
    assert dataset.spec.models == source.models
    assert set(dataset.spec.options) == set(ShapingConfig().plain())
    assert dataset.spec.carried["signals"] == {
        "process": "steps", "outcome": "right", "format": "form", "reference": "start", "logprobs": ["teacher"],
    }  # fmt: skip
    assert set(dataset.spec.inputs) == {"rollouts", "steps", "right", "form", "start", "teacher"}


def test_the_stored_dataset_keeps_every_promise_of_the_contract(scored) -> None:
    dataset = shape_run(scored)
    assert [finding for finding in shards.verify(dataset.url) if finding.severity != "info"] == []
    dataset.check_inputs()


def test_a_rerun_changes_nothing_and_another_folder_has_the_same_bytes(scored) -> None:
    first = shape_run(scored)
    again = shape_run(scored)
    other = shape_run(scored, out="again")
    assert first.content_digest == again.content_digest == other.content_digest


def test_every_shaping_option_is_in_the_fingerprint(scored) -> None:
    shape_run(scored)
    with pytest.raises(FingerprintMismatchError, match=r"options\.k: 0\.7 there, 0\.5 asked"):
        shape_run(
            scored,
            ShapeOptions(
                k=0.5, process="steps", outcome="right", format="form", reference="start", logprobs=("teacher",)
            ),
        )
    with pytest.raises(FingerprintMismatchError, match=r"signals\.reference"):
        shape_run(
            scored,
            ShapeOptions(process="steps", outcome="right", format="form", reference="teacher", logprobs=("start",)),
        )


def test_a_token_level_signal_is_shaped_as_kl(scored) -> None:
    options = ShapeOptions(process="opd", outcome="right", weights=Weights(format=0.0))
    shaped = shape_run(scored, options)
    assert shaped.spec.options["signal"] == "kl"  # as the data has it; recorded like a signal that was set
    table = whole(shaped)
    assert "process_ends" not in table.column_names
    assert [row["rollout_id"] for row in table.to_pylist() if not row["trainable"]] == ["p2/1"]


def test_grpo_outcome_needs_no_process_signal(scored) -> None:
    options = ShapeOptions(estimator="grpo_outcome", outcome="right", weights=Weights(format=0.0))
    table = whole(shape_run(scored, options))
    assert [len(ends) for ends in table["chunk_ends"].to_pylist()] == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert table["chunk_advantages"][0].as_py()[0] > 0 > table["chunk_advantages"][1].as_py()[0]


OWN = "import numpy as np\n\ndef centred(group, config):\n    return [np.full(len(m), {}) for m in group.mask]\n"


def test_the_source_of_an_estimator_by_import_path_is_in_the_fingerprint(scored, tmp_path, monkeypatch) -> None:
    module = tmp_path / "own_shaping.py"
    module.write_text(OWN.format(0.25))
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ShapeOptions(estimator="own_shaping:centred", outcome="right", weights=Weights(process=0.0, format=0.0))
    dataset = shape_run(scored, options)
    assert {a for row in whole(dataset)["chunk_advantages"].to_pylist() for a in row} == {0.25}
    assert list(dataset.spec.options["code"]) == ["own_shaping:centred"]
    module.write_text(OWN.format(0.5))
    with pytest.raises(FingerprintMismatchError, match=r"options\.code\.own_shaping:centred"):
        shape_run(scored, options)


def test_a_dataset_of_an_estimator_that_is_not_here_can_be_linted(scored, tmp_path, monkeypatch) -> None:
    (tmp_path / "own_gone.py").write_text(OWN.format(0.25))
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ShapeOptions(estimator="own_gone:centred", outcome="right", weights=Weights(process=0.0, format=0.0))
    dataset = shape_run(scored, options)
    (tmp_path / "own_gone.py").unlink()
    monkeypatch.delitem(sys.modules, "own_gone")
    importlib.invalidate_caches()
    lint(dataset.url)
    with pytest.raises(NotExplainableError, match="own_gone:centred"):
        explain_rollout(dataset.url, dataset.read_part(0)["rollout_id"][0].as_py())


def test_a_named_estimator_has_no_code_of_its_own(scored) -> None:
    assert "code" not in shape_run(scored).spec.options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ShapeOptions(outcome="right", format="form"), "option process: estimator 'pass' reads .*; name one$"),
        (
            ShapeOptions(estimator="prime", outcome="right", format="form"),
            r"option process: estimator 'prime' reads .*; name one, or set weights\.process to 0$",
        ),
        (ShapeOptions(process="steps", format="form"), "option outcome: weights.outcome is 1, but no outcome signal"),
        (ShapeOptions(process="steps", outcome="right"), r"option format: .* or set weights\.format to 0"),
        (ShapeOptions(process="steps", outcome="steps", format="form"), "'steps' is named for two streams"),
        (ShapeOptions(estimator="no_such_module:f"), "option estimator: .*no module 'no_such_module'"),
    ],
)
def test_a_stream_that_counts_needs_its_own_signal(options: ShapeOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        shape_dataset(rollouts="nowhere", signals="nowhere", out="nowhere", options=options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"process": "opd", "signal": "prm"},
            "signal is 'prm', but the process signal 'opd' is of kind process_tokens, which is 'kl'",
        ),
        (
            {"signal": "kl"},
            "signal is 'kl', but the process signal 'steps' is of kind process_steps, which is 'prm'",
        ),
        ({"process": "right", "outcome": "steps"}, "is of kind"),
        ({"reference": "form", "format": "start"}, "is of kind"),
        (
            {"logprobs": ("opd",)},
            "option logprobs: the signal 'opd' is of kind process_tokens, and it must be logprobs",
        ),
    ],
)
def test_a_signal_in_the_wrong_place_is_refused(scored, change: dict, message: str) -> None:
    chosen = {"process": "steps", "outcome": "right", "format": "form", **change}
    with pytest.raises(WrongInputError, match=message):
        shape_run(scored, ShapeOptions(**chosen))


def test_an_incomplete_signal_is_refused(scored) -> None:
    next(Path(scored.signal("right")).glob("_manifest-*")).unlink()
    with pytest.raises(IncompleteDatasetError, match="right"):
        shape_run(scored)


def test_a_signal_of_replaced_rollouts_is_refused(scored, make_run: Callable) -> None:
    other = make_run("other", answer="6")
    with pytest.raises(StaleInputError, match="signal"):
        shape_dataset(rollouts=other.rollouts, signals=scored.signals, out=other.out(), options=OPTIONS)


def test_a_worker_refuses_a_signal_that_was_made_anew_since_the_job_began(scored) -> None:
    shape_run(scored)
    spec = shards.open_dataset(scored.out()).spec
    signals = {name: scored.signal(name) for name in OPTIONS.roles}
    ShapeWork(spec=spec, rollouts=scored.rollouts, signals=signals, out="shaped", options=OPTIONS).setup()
    anew = signals | {"right": scored.signal("form")}
    with pytest.raises(StaleInputError, match="was made anew"):
        ShapeWork(spec=spec, rollouts=scored.rollouts, signals=anew, out="shaped", options=OPTIONS).setup()


def test_rows_in_another_order_are_not_joined(scored) -> None:
    rollouts = shards.open_dataset(scored.rollouts).read_part(0)
    signal = shards.open_dataset(scored.signal("right")).read_part(0)
    with pytest.raises(AlignmentError, match="signal 'right': the rows are not the rollouts' in their order"):
        join_signals(rollouts, {"right": signal.take([0, 2, 1, 3, 4])})


def test_shaping_options_alone_are_what_pass_ops_is_given() -> None:
    options = ShapeOptions(k=0.0, weights=Weights(outcome=2.0), process="steps")
    with pytest.raises(OptionError, match="'steps' is, is not known yet"):
        _ = options.config
    for kind, signal in (("process_steps", "prm"), ("process_tokens", "kl")):
        resolved = resolve_signal(options, {"steps": kind})
        assert resolved.config == ShapingConfig(signal=signal, k=0.0, weights=Weights(outcome=2.0))
    assert ShapeOptions(estimator="rloo", k=0.0).config == ShapingConfig(estimator="rloo", k=0.0)
    with pytest.raises(OptionError, match="k"):
        ShapeOptions(k=2.0)


def test_rollouts_that_do_not_say_what_training_needs_are_refused_before_anything_is_made(make_run):
    run = make_run(sampling={"group_size": 2})
    with pytest.raises(WrongInputError, match=r"does not say sampling\.temperature in its _dataset\.json"):
        shape_dataset(rollouts=run.rollouts, signals=run.signals, out=run.out(), options=OPTIONS)
    assert not Path(run.out()).exists()
