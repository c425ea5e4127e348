"""verify finds every kind of damage, names it and the first offenders, and finds nothing in sound data."""

from __future__ import annotations

import pyarrow as pa
import pytest
from verifying import codes_of, errors_of, make_signal, put, smuggle

from pass_ops.errors import NotADatasetError
from pass_ops.shards import (
    DatasetSpec,
    Store,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    verify,
)
from pass_ops.shards.tables import part_bytes, plain_bytes


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


def test_an_unfinished_dataset_is_found_with_what_is_missing(near_root, generate_spec, rollouts):
    commit_part(create_dataset(near_root, generate_spec()), 0, rollouts("a"))
    assert errors_of(near_root) == [
        ("incomplete", "the dataset is not finalized; 1 of 2 parts have no marker: run its stage again")
    ]


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


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda t: t.slice(0, 3), "counts", "rows is 3, but the marker says 4"),
        (lambda t: t.take([0, 2, 1, 3]), "adjacency", "not adjacent: b/1"),
        (lambda t: t.take([1, 0, 2, 3]), "sample_order", "does not increase within the group: b/0"),
        (lambda t: t.take([0, 0, 2, 3]), "sample_order", "b/0"),
        (lambda t: put(t, "rollout_id", ["b/0", "b/1", "x/0", "c/1"]), "id_form", "x/0"),
        (lambda t: put(t, "behavior_logprobs", [[-1.0, 0.0]] * 4), "lengths", "behavior_logprobs .*: b/0, c/0"),
        (lambda t: put(t, "loss_mask", [[True]] * 4), "lengths", "loss_mask"),
        (
            lambda t: put(t, "behavior_logprobs", [[-1.0, -1.0, -1.0], [-1.0, -1.0]] * 2),
            "masked_values",
            "b/0, b/1, c/0 and 1 more",
        ),
        (lambda t: put(t, "behavior_logprobs", [[float("nan"), 0.0, -1.0], [-1.0, 0.0]] * 2), "finite", "b/0, c/0"),
        (lambda t: put(t, "finish_reason", ["stop", "abort", "length", "stop"]), "value", "stop, length: b/1"),
        (lambda t: t.drop_columns(["seed"]), "schema", "column seed is None"),
        (lambda t: t.set_column(9, "seed", t["seed"].cast(pa.int32())), "schema", "column seed is int32"),
    ],
)
def test_rollouts_that_break_a_rule_are_found_and_named(tmp_path, make_dataset, rollouts, spoil, code, says):
    url = make_dataset(str(tmp_path), rollouts("a"), rollouts("b", "c")).url
    smuggle(url, 1, part_bytes(spoil(rollouts("b", "c")), "generate"))
    import re

    assert any(found == code and re.search(says, message) for found, message in errors_of(url)), errors_of(url)


def test_a_file_that_is_not_named_by_its_content_is_found(tmp_path, make_dataset, rollouts):
    url = make_dataset(str(tmp_path), rollouts("a")).url
    smuggle(url, 0, part_bytes(rollouts("a"), "generate"), sha8="0" * 8)
    assert codes_of(url) == {"file_name"}


def test_a_group_in_two_parts_is_found(tmp_path, make_dataset, rollouts):
    assert errors_of(make_dataset(str(tmp_path), rollouts("a"), rollouts("a")).url) == [
        ("unique_ids", "a is also in part 0")
    ]


def test_a_row_group_that_splits_a_group_is_found(tmp_path, make_dataset, rollouts):
    import pyarrow.parquet as pq

    url = make_dataset(str(tmp_path), rollouts("a")).url
    sink = pa.BufferOutputStream()
    table = rollouts("a").replace_schema_metadata({"format_version": "1", "stage": "generate"})
    pq.write_table(table, sink, row_group_size=1)
    smuggle(url, 0, sink.getvalue().to_pybytes())
    assert ("row_groups", "row group 1 begins within a group, at row 1") in errors_of(url)


def test_a_part_of_another_stage_or_format_is_found(tmp_path, make_dataset, rollouts):
    url = make_dataset(str(tmp_path), rollouts("a")).url
    smuggle(url, 0, plain_bytes(rollouts("a"), "score"))
    assert ("schema", "its metadata has stage b'score', not b'generate'") in errors_of(url)


@pytest.mark.parametrize("file", ["_dataset.json", "_manifest-{}.json", "_parts-{}.parquet", "_done/000000-{}.json"])
def test_damage_to_a_small_file_is_found(run, file):
    store = Store(f"{run}/round-000/rollouts")
    name = file.format(open_dataset(store.root).spec.fingerprint[:8])
    store.put(name, store.read(name)[:-9])
    assert codes_of(store.root) <= {"corrupt", "marker"}
    assert any(name in finding.message + finding.where for finding in verify(store.root))


def test_a_manifest_that_does_not_add_up_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    name = f"_manifest-{complete.spec.fingerprint[:8]}.json"
    content = complete.store.read(name)
    complete.store.put(
        name, content.replace(complete.content_digest.encode(), b"0" * 64).replace(b'"rows": 6', b'"rows": 7')
    )
    assert [message.split(" is ")[0] for code, message in errors_of(complete.url) if code == "manifest"] == [
        "content_digest",
        "totals",
    ]


def test_a_marker_that_names_another_file_than_the_manifest_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    name = f"_done/000000-{complete.spec.fingerprint[:8]}.json"
    complete.store.put(name, complete.store.read(name).replace(complete.parts[0].sha256.encode(), b"0" * 64))
    assert codes_of(complete.url) == {"marker"}
    complete.store.remove(name)
    assert codes_of(complete.url) == {"marker"}


def test_a_stale_input_is_found_also_two_steps_up(run, make_dataset, rollouts, generate_spec):
    shaped_url = f"{run}/elsewhere/combined"
    signal = open_dataset(f"{run}/round-000/signals/outcome")
    spec = DatasetSpec(stage="score", stage_version=1, options={}, parts=2, inputs={"outcome": signal.ref(shaped_url)})
    ds = create_dataset(shaped_url, spec)
    for part in range(2):
        commit_part(ds, part, signal.read_part(part))
    finalize(ds)
    assert verify(shaped_url) == []
    anew = create_dataset(f"{run}/round-000/rollouts", generate_spec(seed=9), overwrite=True)
    commit_part(anew, 0, rollouts("a"))
    commit_part(anew, 1, rollouts("b", "c"))
    finalize(anew)
    [finding] = verify(shaped_url)
    assert (finding.severity, finding.code) == ("error", "stale_input")
    assert finding.where.endswith("signals/outcome")
    assert "rollouts" in finding.message


def test_an_absent_input_is_told_and_is_no_error(tmp_path, make_dataset, rollouts, outcomes):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    signal = make_signal(str(tmp_path / "outcome"), made, [outcomes(rollouts("a"))])
    (tmp_path / "rollouts").rename(tmp_path.parent / "gone")
    assert [(finding.severity, finding.code) for finding in verify(signal.url)] == [("info", "input_absent")]


# -- signals and shaped parts ------------------------------------------------------------------------------------
