"""Which parts are left to do: by listings, and by records only where these cannot tell."""

from __future__ import annotations

import pytest

from pass_ops.shards import (
    PendingParts,
    Rejection,
    Store,
    begin_attempt,
    commit_part,
    create_dataset,
    fail_part,
    finalize,
    pending_parts,
)


def test_what_is_pending_comes_from_listings_alone(root, generate_spec, rollouts):
    ds = create_dataset(root, generate_spec(parts=5))
    for part in (0, 3):
        begin_attempt(ds, part)
        commit_part(ds, part, rollouts(f"g{part}"))
    begin_attempt(ds, 1)
    fail_part(ds, 2, cause="boom", traceback="line 1")
    operations = []
    watched = create_dataset(root, ds.spec, store=Store(root, lambda operation, name: operations.append(operation)))
    operations.clear()
    assert pending_parts(watched) == PendingParts(todo=(1, 2, 4), suspects=(1, 2), failed=(2,))
    assert operations == ["list"] * 4


@pytest.mark.parametrize("number", [0, 1])
def test_of_a_finalized_dataset_the_list_of_parts_is_read_and_no_marker(root, make_dataset, rollouts, number):
    rejected = [Rejection(prompt_id="x", sample_index=5, reason="r")] * number
    made = make_dataset(root, rollouts("a"), rollouts("b"), rejected=rejected)
    operations: list[tuple[str, str]] = []
    ds = create_dataset(root, made.spec, store=Store(root, lambda *what: operations.append(what)))
    operations.clear()
    assert pending_parts(ds) == PendingParts(todo=(), suspects=(), failed=())
    listed = ["_done", "", *["_rejected"] * number, "_failed", "_attempts"]
    assert operations[:2] + operations[3:] == [("list", folder) for folder in listed]
    assert operations[2] == ("read", f"_parts-{ds.fp8}.jsonl")


def test_attempts_that_led_to_a_void_marker_do_not_count_when_the_part_is_redone(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    assert [begin_attempt(ds, 0) for _ in range(3)] == [1, 2, 3]
    ds.store.remove(commit_part(ds, 0, rollouts("a")).data)
    again = create_dataset(near_root, generate_spec(parts=1))
    assert pending_parts(again) == PendingParts(todo=(0,), suspects=(), failed=())
    assert begin_attempt(again, 0) == 1


def test_only_the_attempts_of_void_parts_are_forgotten(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    for part in range(2):
        begin_attempt(ds, part)
        record = commit_part(ds, part, rollouts(f"g{part}"))
    others = ["000001-00000000-1.json", "notes.txt"]
    for name in others:
        ds.store.create(f"_attempts/{name}", b"{}")
    ds.store.remove(record.data)
    assert pending_parts(ds).todo == (1,)
    assert [entry.name for entry in ds.store.entries("_attempts")] == [f"000000-{ds.fp8}-1.json", *others]
    assert [entry.name for entry in ds.store.entries("_done")] == [f"000000-{ds.fp8}.json"]


@pytest.mark.parametrize("finalized", [False, True])
def test_a_marker_whose_rejected_file_is_gone_is_void_too(near_root, generate_spec, rollouts, finalized):
    ds = create_dataset(near_root, generate_spec(parts=1))
    record = commit_part(ds, 0, rollouts("a"), rejected=[Rejection(prompt_id="a", sample_index=5, reason="r")])
    if finalized:
        finalize(ds, max_reject_rate=1.0)
    assert pending_parts(ds).todo == ()
    ds.store.remove(record.rejected)
    assert pending_parts(ds).todo == (0,)
    assert not ds.store.exists(f"_manifest-{ds.fp8}.json")


def test_a_marker_that_is_gone_when_it_is_read_is_a_part_to_do(near_root, generate_spec, rollouts):
    marker = f"_done/000000-{generate_spec(parts=1).fingerprint[:8]}.json"

    def somebody_removes_it(operation: str, name: str) -> None:
        if (operation, name) == ("read", marker):
            Store(near_root).remove(marker)

    ds = create_dataset(near_root, generate_spec(parts=1), store=Store(near_root, somebody_removes_it))
    commit_part(ds, 0, rollouts("a"))
    assert pending_parts(ds).todo == (0,)
