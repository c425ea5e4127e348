from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from verifying import said

from pass_ops.errors import NotFinalized
from pass_ops.shards import (
    PartRecord,
    Rejection,
    Store,
    commit_part,
    create_dataset,
    fail_part,
    finalize,
    open_dataset,
    record_run,
)
from pass_ops.shards.fingerprint import content_digest
from pass_ops.shards.records import make_manifest


def test_the_manifest_counts_what_the_markers_say(root, generate_spec, rollouts):
    ds = create_dataset(root, generate_spec())
    rejected = [
        Rejection(prompt_id="x", sample_index=0, reason="aborted"),
        Rejection(prompt_id="y", sample_index=1, reason="aborted"),
    ]
    first = commit_part(ds, 0, rollouts("a", "b"), rejected=rejected)
    second = commit_part(ds, 1, rollouts("c").slice(0, 1))
    manifest = finalize(ds, max_reject_rate=0.5)
    assert manifest.content_digest == content_digest(ds.fingerprint, [first.sha256, second.sha256])
    assert manifest.totals == {
        "parts": 2,
        "rows": 5,
        "groups": 3,
        "tokens": 13,
        "bytes": first.bytes + second.bytes,
        "rejected_rollouts": 2,
    }
    assert manifest.rejected == {"aborted": 2}
    assert manifest.groups_by_size == {"1": 1, "2": 2}
    document = json.loads(ds.store.read(f"_manifest-{ds.fp8}.json"))
    assert document["content_digest"] == manifest.content_digest
    assert document == asdict(manifest)
    assert (manifest.format_version, manifest.stage, manifest.fingerprint) == (2, "generate", ds.fingerprint)
    listed = ds.store.read(f"_parts-{ds.fp8}.jsonl").decode()
    assert [json.loads(line) for line in listed.splitlines()] == [asdict(first), asdict(second)]


def test_sizes_of_groups_are_listed_from_the_smallest(generate_spec):
    counts = dict.fromkeys(("bytes", "rows", "groups", "tokens"), 0)
    record = PartRecord(part=0, data="data", sha256="sha256", **counts, groups_by_size={"10": 1, "9": 2, "2": 3})
    assert list(make_manifest(generate_spec(), [record], "sha256").groups_by_size.items()) == [
        ("2", 3),
        ("9", 2),
        ("10", 1),
    ]


def test_finalizing_again_changes_nothing(root, make_dataset, rollouts):
    complete = make_dataset(root, rollouts("a"))
    contents = {entry.name: complete.store.read(entry.name) for entry in complete.store.entries()}
    assert finalize(create_dataset(root, complete.spec)) == complete.manifest
    assert contents == {entry.name: complete.store.read(entry.name) for entry in complete.store.entries()}


def test_missing_and_failed_parts_are_the_reasons_and_stand_in_the_run_record(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=4))
    commit_part(ds, 0, rollouts("a"))
    fail_part(ds, 2, cause="CUDA out of memory", traceback="...")
    with pytest.raises(NotFinalized) as raised:
        finalize(ds)
    reasons = (
        "2 of 4 parts are not done: 1, 3",
        f"part 2 failed: CUDA out of memory (see _failed/000002-{ds.fp8}.json)",
    )
    assert raised.value.reasons == reasons
    assert json.loads(ds.store.read("_run.json")) == {"finalized": False, "not_finalized": list(reasons)}


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_failure_whose_record_cannot_be_read_is_a_reason_too(near_root, generate_spec, content):
    ds = create_dataset(near_root, generate_spec(parts=1))
    ds.store.put(f"_failed/000000-{ds.fp8}.json", content)
    assert said(NotFinalized, lambda: finalize(ds)) == (
        f"{near_root} is not finalized: part 0 failed: cause unknown (see _failed/000000-{ds.fp8}.json)"
    )


@pytest.mark.parametrize(("failed", "more"), [(10, ()), (12, ("2 more parts failed (see _failed)",))])
def test_of_many_failed_parts_the_first_ten_are_named(near_root, generate_spec, failed, more):
    ds = create_dataset(near_root, generate_spec(parts=failed))
    for part in range(failed):
        fail_part(ds, part, cause="boom", traceback="")
    with pytest.raises(NotFinalized) as raised:
        finalize(ds)
    named = tuple(f"part {part} failed: boom (see _failed/{part:06d}-{ds.fp8}.json)" for part in range(10))
    assert raised.value.reasons == named + more


def test_the_run_record_is_merged_by_key(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    record_run(ds, {"job": "one", "host": "here"})
    record_run(ds, {"job": "two"})
    commit_part(ds, 0, rollouts("a"))
    finalize(ds)
    assert json.loads(ds.store.read("_run.json")) == {
        "job": "two",
        "host": "here",
        "finalized": True,
        "not_finalized": [],
    }


@pytest.mark.parametrize(
    ("rejected", "rate"),
    [
        ([Rejection(prompt_id="x", sample_index=0, reason="aborted")], 1 / 5),
        ([Rejection(prompt_id="x", reason="too_long")], 2 / 6),
    ],
)
def test_too_many_rejections_refuse_the_dataset_exactly_above_the_limit(
    near_root, generate_spec, rollouts, rejected, rate
):
    ds = create_dataset(near_root, generate_spec(parts=1))
    commit_part(ds, 0, rollouts("a", "b"), rejected=rejected)
    assert said(NotFinalized, lambda: finalize(ds, max_reject_rate=rate - 0.001)) == (
        f"{near_root} is not finalized: {rate:.2%} of the rollouts were rejected ({rejected[0].reason} 1), more than "
        f"max_reject_rate {rate - 0.001:.2%}; see _rejected"
    )
    finalize(ds, max_reject_rate=rate)


def test_the_reasons_of_all_parts_are_counted_together(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    for part, reasons in enumerate((["too_long", "aborted"], ["aborted"])):
        rejected = [Rejection(prompt_id="x", sample_index=5, reason=reason) for reason in reasons]
        commit_part(ds, part, rollouts(f"g{part}"), rejected=rejected)
    assert said(NotFinalized, lambda: finalize(ds)) == (
        f"{near_root} is not finalized: 42.86% of the rollouts were rejected (aborted 2, too_long 1), more than "
        "max_reject_rate 5.00%; see _rejected"
    )


@pytest.mark.parametrize(("groups", "refused"), [(9, True), (10, False)])
def test_one_rollout_of_twenty_may_be_rejected(near_root, generate_spec, rollouts, groups, refused):
    ds = create_dataset(near_root, generate_spec(parts=1))
    rejected = [Rejection(prompt_id="x", sample_index=5, reason="aborted")]
    commit_part(ds, 0, rollouts(*(f"g{group}" for group in range(groups))), rejected=rejected)
    if refused:
        assert said(NotFinalized, lambda: finalize(ds)).startswith(
            f"{near_root} is not finalized: 5.26% of the rollouts"
        )
    else:
        assert finalize(ds).totals["rejected_rollouts"] == 1


def test_a_part_whose_file_is_gone_refuses_the_dataset_and_stays_for_the_next_run(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    record = commit_part(ds, 0, rollouts("a"))
    ds.store.remove(record.data)
    for _ in range(2):
        assert said(NotFinalized, lambda: finalize(ds)) == (
            f"{near_root} is not finalized: files of parts 0 are gone; run again to redo them"
        )
    assert ds.store.exists(f"_done/000000-{ds.fp8}.json")


def test_a_finalized_dataset_is_refused_when_a_file_is_gone(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"))
    made.store.remove(made.parts[1].data)
    assert said(NotFinalized, lambda: finalize(create_dataset(near_root, made.spec))) == (
        f"{near_root} is not finalized: files of parts 1 are gone; run again to redo them"
    )


def test_finalize_removes_only_own_files_that_a_marker_outvotes(root, generate_spec, rollouts):
    ds = create_dataset(root, generate_spec())
    named = commit_part(ds, 0, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    outvoted = [f"part-000000-{ds.fp8}-00000000.parquet", f"_rejected/000000-{ds.fp8}-00000000.parquet"]
    others = [
        "part-000000-ffffffff-00000000.parquet",
        "notes.txt",
        f".part-000000-{ds.fp8}-00000000.parquet.0123456789ab.tmp",
    ]
    for name in [*outvoted, *others]:
        ds.store.create(name, b"left behind")
    with pytest.raises(NotFinalized):
        finalize(ds, max_reject_rate=1.0)
    assert all(ds.store.exists(name) for name in outvoted)
    commit_part(ds, 1, rollouts("b"))
    finalize(ds, max_reject_rate=1.0)
    assert [name for name in [*outvoted, *others, *named.files] if ds.store.exists(name)] == [*others, *named.files]
    ds.store.create(outvoted[0], b"left by a late writer")
    finalize(ds)
    assert not ds.store.exists(outvoted[0])


def test_a_list_of_parts_left_without_a_manifest_is_replaced(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    ds.store.create(f"_parts-{ds.fp8}.jsonl", b"from markers that are void now")
    commit_part(ds, 0, rollouts("a"))
    finalize(ds)
    assert open_dataset(near_root).parts[0].rows == 2


def test_two_finalizers_write_the_same_bytes(tmp_path, generate_spec, rollouts):
    for name in ("one", "two"):
        ds = create_dataset(str(tmp_path / name), generate_spec())
        for part in (0, 1) if name == "one" else (1, 0):
            commit_part(ds, part, rollouts(f"g{part}"))
        finalize(ds)
    fp8 = generate_spec().fingerprint[:8]
    for name in (f"_parts-{fp8}.jsonl", f"_manifest-{fp8}.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_reasons_survive_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(NotFinalized(["one", "two"], "memory://x")))
    assert error.reasons == ("one", "two")
    assert str(error) == "memory://x is not finalized: one; two"


def test_finalize_reads_every_marker_once_and_lists_each_folder_once(root, generate_spec, rollouts):
    operations: list[tuple[str, str]] = []
    ds = create_dataset(root, generate_spec(parts=3), store=Store(root, lambda *what: operations.append(what)))
    for part in range(3):
        commit_part(ds, part, rollouts(f"g{part}"))
    operations.clear()
    finalize(ds)
    assert sum(operation == "list" for operation, _ in operations) == 3
    assert sum(operation == "read" and name.startswith("_done") for operation, name in operations) <= 3


@pytest.mark.parametrize(
    ("parts", "shown"), [(11, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"), (13, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more")]
)
def test_of_many_missing_parts_the_first_ten_are_named(near_root, generate_spec, rollouts, parts, shown):
    ds = create_dataset(near_root, generate_spec(parts=parts))
    commit_part(ds, 0, rollouts("a"))
    with pytest.raises(NotFinalized) as raised:
        finalize(ds)
    reason = f"{parts - 1} of {parts} parts are not done: {shown}"
    assert raised.value.reasons == (reason,)
    assert str(raised.value) == f"{near_root} is not finalized: {reason}"


def test_reasons_without_a_folder_are_those_of_the_dataset():
    assert str(NotFinalized(["one", "two"])) == "the dataset is not finalized: one; two"
