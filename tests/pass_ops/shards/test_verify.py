"""verify finds every kind of damage, names it and the first offenders, and finds nothing in sound data."""

from __future__ import annotations

import pyarrow as pa
import pytest
from verifying import codes_of, errors_of, make_signal, put, said, smuggle

from pass_ops.errors import CorruptDatasetError, NotADatasetError
from pass_ops.shards import (
    DatasetSpec,
    InputRef,
    Store,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    verify,
)
from pass_ops.shards.tables import part_bytes, plain_bytes
from pass_ops.shards.verify import Finding


@pytest.fixture
def run(near_root, make_dataset, rollouts, outcomes):
    """A RUN folder with rollouts of two parts and a signal made from them; its URL."""
    made = make_dataset(f"{near_root}/round-000/rollouts", rollouts("a"), rollouts("b", "c"))
    make_signal(f"{near_root}/round-000/signals/outcome", made, [outcomes(made.read_part(part)) for part in range(2)])
    return near_root


def test_sound_data_gives_no_findings(run):
    assert verify(run) == []
    assert verify(f"{run}/round-000/rollouts") == []


def test_sound_data_on_s3_gives_no_findings_and_a_changed_file_does(s3_bucket, make_dataset, rollouts):
    complete = make_dataset(f"{s3_bucket}/verified/rollouts", rollouts("a"))
    assert verify(f"{s3_bucket}/verified") == []
    complete.store.put(complete.parts[0].data, b"no parquet")
    assert codes_of(f"{s3_bucket}/verified") == {"sha256", "unreadable"}


def test_a_folder_without_datasets_is_said_to_be_one(near_root):
    Store(near_root).create("notes.txt", b"x")
    with pytest.raises(NotADatasetError, match="no dataset at or below"):
        verify(near_root)


def test_a_flipped_byte_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    name = complete.parts[1].data
    content = bytearray(complete.store.read(name))
    content[len(content) // 2] ^= 1
    complete.store.put(name, bytes(content))
    assert ("sha256", complete.store.path(name)) in {(finding.code, finding.where) for finding in verify(run)}


def test_a_missing_file_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    complete.store.remove(complete.parts[0].data)
    assert codes_of(complete.url) == {"missing_file"}


def test_orphans_are_told_and_are_no_error(run):
    store = Store(f"{run}/round-000/rollouts")
    fp8 = open_dataset(store.root).spec.fingerprint[:8]
    orphans = [
        f"part-000000-{fp8}-00000000.parquet",
        f"_rejected/000000-{fp8}-00000000.parquet",
        "_done/000000-00000000.json",
    ]
    for name in orphans:
        store.create(name, b"x")
    findings = verify(store.root)
    assert {(finding.severity, finding.code) for finding in findings} == {("info", "orphan")}
    assert {finding.where for finding in findings} == {store.path(name) for name in orphans}


def test_rollouts_that_break_a_rule_are_found_and_named(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path), rollouts("a"), rollouts("b", "c"))
    table = put(rollouts("b", "c"), "finish_reason", ["stop", "abort", "length", "stop"])
    smuggle(made.url, 1, part_bytes(table, "generate"))
    file = made.store.path(open_dataset(made.url).parts[1].data)
    says = "finish_reason is none of stop, length: b/1"
    assert [finding for finding in verify(made.url) if finding.severity == "error"] == [
        Finding("error", "value", file, says)
    ]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.drop_columns(["seed"]), ["column seed is absent, not int64 not null"]),
        (
            lambda t: t.rename_columns({"group_id": "a", "rollout_id": "b"}),
            ["column group_id is absent, not string not null", "column rollout_id is absent, not string not null"],
        ),
        (
            lambda t: t.set_column(4, "token_ids", t["sample_index"]),
            ["column token_ids is int32, not list<element: int32 not null> not null"],
        ),
        (lambda t: t.set_column(5, "text", t["text"]), ["column text is string, not string not null"]),
        (
            lambda t: t.set_column(10, pa.field("answer", pa.string(), nullable=False), t["text"]),
            ["column answer is string not null, not string"],
        ),
    ],
)
def test_of_a_part_of_other_columns_nothing_more_is_told(tmp_path, make_dataset, rollouts, spoil, says):
    made = make_dataset(str(tmp_path), rollouts("a"))
    smuggle(made.url, 0, plain_bytes(spoil(rollouts("a", "b")), "generate"))
    file = made.store.path(open_dataset(made.url).parts[0].data)
    told = [finding for finding in verify(made.url) if finding.severity == "error"]
    assert told == [Finding("error", "schema", file, message) for message in says]


def test_a_row_group_that_splits_a_group_is_found(tmp_path, make_dataset, rollouts):
    import pyarrow.parquet as pq

    url = make_dataset(str(tmp_path), rollouts("a", "b")).url
    sink = pa.BufferOutputStream()
    table = rollouts("a", "b").replace_schema_metadata({"format_version": "2", "stage": "generate"})
    pq.write_table(table, sink, row_group_size=1)
    smuggle(url, 0, sink.getvalue().to_pybytes())
    file = Store(url).path(open_dataset(url).parts[0].data)
    assert [finding for finding in verify(url) if finding.severity == "error"] == [
        Finding("error", "row_groups", file, f"row group {row} begins within a group, at row {row}") for row in (1, 3)
    ]


@pytest.mark.parametrize("file", ["_dataset.json", "_manifest-{}.json", "_parts-{}.jsonl", "_done/000000-{}.json"])
def test_damage_to_a_small_file_is_found(run, file):
    store = Store(f"{run}/round-000/rollouts")
    name = file.format(open_dataset(store.root).spec.fingerprint[:8])
    store.put(name, store.read(name)[:-9])
    assert codes_of(store.root) <= {"corrupt", "marker"}
    assert any(name in finding.message + finding.where for finding in verify(store.root))


def test_a_stale_input_is_found_also_two_steps_up(run, make_dataset, rollouts, generate_spec):
    shaped_url = f"{run}/elsewhere/combined"
    signal = open_dataset(f"{run}/round-000/signals/outcome")
    spec = DatasetSpec(stage="score", stage_version=1, options={}, parts=2, inputs={"outcome": signal.ref(shaped_url)})
    ds = create_dataset(shaped_url, spec)
    for part in range(2):
        commit_part(ds, part, signal.read_part(part))
    finalize(ds)
    assert verify(shaped_url) == []
    rollouts_url = f"{run}/round-000/rollouts"
    anew = create_dataset(rollouts_url, generate_spec(seed=9), overwrite=True)
    commit_part(anew, 0, rollouts("a"))
    commit_part(anew, 1, rollouts("b", "c"))
    finalize(anew)
    was, is_ = (ref.content_digest[:16] for ref in (signal.spec.inputs["rollouts"], open_dataset(anew.url).ref("")))
    says = f"which has content digest {is_}... now, {was}... when this was made: make it again"
    assert verify(shaped_url) == [
        Finding("error", "stale_input", signal.url, f"made from rollouts ({rollouts_url}), {says}")
    ]


def test_rows_are_not_compared_with_rollouts_that_are_others_now(run, rollouts, generate_spec):
    anew = create_dataset(f"{run}/round-000/rollouts", generate_spec(seed=9), overwrite=True)
    for part in range(2):
        commit_part(anew, part, rollouts(f"other-{part}"))
    finalize(anew)
    assert codes_of(f"{run}/round-000/signals/outcome") == {"stale_input"}


def test_what_several_inputs_were_made_from_is_told_once(near_root, make_dataset, rollouts, outcomes, generate_spec):
    gone = {"prompts": InputRef("../prompts", "a" * 64)}
    made = make_dataset(f"{near_root}/rollouts", rollouts("a"), spec=generate_spec(parts=1, inputs=gone))
    signals = [make_signal(f"{near_root}/{name}", made, [outcomes(rollouts("a"))]) for name in ("one", "two")]
    url = f"{near_root}/combined"
    inputs = {"absent": InputRef("../absent", "b" * 64), **{signal.url: signal.ref(url) for signal in signals}}
    ds = create_dataset(url, DatasetSpec(stage="score", stage_version=1, options={}, parts=1, inputs=inputs))
    commit_part(ds, 0, outcomes(rollouts("a")))
    finalize(ds)
    assert verify(url) == [
        Finding("info", "input_absent", url, f"its input absent ({near_root}/absent) is not there to compare with"),
        Finding(
            "info",
            "input_absent",
            made.url,
            f"its input prompts ({near_root}/prompts) is not there to compare with",
        ),
    ]


def test_a_folder_that_is_no_dataset_any_more_is_an_absent_input(run):
    Store(f"{run}/round-000/rollouts").remove("_dataset.json")
    [finding] = verify(f"{run}/round-000/signals/outcome")
    assert (finding.severity, finding.code) == ("info", "input_absent")


@pytest.mark.parametrize(
    ("fact", "wrong"),
    [
        ("sampling.group_size", 0),
        ("sampling.temperature", "1"),
        ("tokenizer_digest", ""),
        ("vocabulary", {}),
        ("round", None),
        ("policy_digest", 7),
    ],
)
def test_what_shape_and_train_need_of_rollouts_is_part_of_their_schema(
    near_root, make_dataset, rollouts, generate_spec, fact, wrong
):
    carried = generate_spec().carried
    key, _, inner = fact.partition(".")
    damaged = {**carried, key: {**carried[key], inner: wrong} if inner else wrong}
    url = f"{near_root}/wrong"
    make_dataset(url, rollouts("a"), spec=generate_spec(parts=1, carried=damaged))
    says = f"it does not say {fact}, which shape and train need: make it anew from what does"
    assert errors_of(url) == [("facts", says)]
    make_dataset(f"{near_root}/right", rollouts("a"), spec=generate_spec(parts=1))
    assert errors_of(f"{near_root}/right") == []
    if fact != "sampling.group_size":  # without it there is no such dataset
        left = {k: v for k, v in damaged.items() if k != key} | ({key: {"group_size": 2}} if inner else {})
        make_dataset(f"{near_root}/absent", rollouts("a"), spec=generate_spec(parts=1, carried=left))
        assert errors_of(f"{near_root}/absent") == [("facts", says)]


def test_a_dataset_of_a_later_version_of_its_stage_is_refused(near_root, make_dataset, rollouts, generate_spec):
    make = generate_spec(parts=1, stage_version=2)
    dataset = create_dataset(near_root, make)
    says = (
        f"{near_root}/_dataset.json was made by version 2 of stage generate; this program knows up to 1: "
        "use the one that made it"
    )
    assert said(CorruptDatasetError, lambda: open_dataset(dataset.url)) == says
    assert errors_of(near_root) == [("corrupt", says)]
