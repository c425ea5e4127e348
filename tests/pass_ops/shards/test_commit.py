from __future__ import annotations

import errno
import json
import os
import socket
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from pass_ops.errors import PartError, StoreError
from pass_ops.shards import (
    PROMPTS,
    DatasetSpec,
    PendingParts,
    Rejection,
    Store,
    begin_attempt,
    commit_part,
    committed,
    create_dataset,
    fail_part,
    finalize,
    load_dataset,
    open_dataset,
    pending_parts,
    sha256_bytes,
    verify,
)
from pass_ops.shards.tables import open_parquet


def test_a_commit_is_a_content_named_file_and_a_marker_that_names_it(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    record = commit_part(ds, 1, rollouts("a", "b"))
    content = ds.store.read(record.data)
    assert record.data == f"part-000001-{ds.fp8}-{sha256_bytes(content)[:8]}.parquet"
    assert json.loads(ds.store.read(f"_done/000001-{ds.fp8}.json")) == {
        "part": 1,
        "data": record.data,
        "sha256": sha256_bytes(content),
        "bytes": len(content),
        "rows": 4,
        "groups": 2,
        "tokens": 10,
        "groups_by_size": {"2": 2},
        "rejected": None,
        "rejected_sha256": None,
        "rejected_rollouts": 0,
        "reasons": {},
    }
    assert committed(ds, 1) == record
    assert committed(ds, 0) is None


def test_rejections_are_kept_with_their_reasons_and_a_prompt_counts_as_a_group(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    rejected = [
        Rejection(prompt_id="long", reason="too_long", detail="9000 tokens", payload={"tokens": 9000, "limit": 8192}),
        Rejection(prompt_id="a", sample_index=1, reason="aborted", transient=True, attempts=3),
    ]
    record = commit_part(ds, 0, rollouts("a"), rejected=rejected)
    assert record.rejected_rollouts == 2 + 1
    assert record.reasons == {"aborted": 1, "too_long": 1}
    content = ds.store.read(record.rejected)
    assert record.rejected == f"_rejected/000000-{ds.fp8}-{sha256_bytes(content)[:8]}.parquet"
    assert open_parquet(content).read().to_pylist() == [
        {
            "stage": "generate",
            "prompt_id": "long",
            "sample_index": None,
            "reason": "too_long",
            "detail": "9000 tokens",
            "transient": False,
            "attempts": 1,
            "payload": '{"limit": 8192, "tokens": 9000}',
        },
        {
            "stage": "generate",
            "prompt_id": "a",
            "sample_index": 1,
            "reason": "aborted",
            "detail": "",
            "transient": True,
            "attempts": 3,
            "payload": None,
        },
    ]


def test_a_prompt_rejected_where_there_are_no_rollouts_counts_once(near_root):
    ds = create_dataset(near_root, DatasetSpec(stage="prompts", stage_version=1, options={}, parts=1))
    rejected = [Rejection(prompt_id="x", reason="empty"), Rejection(prompt_id="y", reason="empty")]
    record = commit_part(ds, 0, PROMPTS.empty_table(), rejected=rejected)
    assert (record.rows, record.rejected_rollouts, record.reasons) == (0, 2, {"empty": 2})


def test_the_first_marker_wins_and_the_loser_removes_its_own_files(root, generate_spec, rollouts):
    ds = create_dataset(root, generate_spec())
    first = commit_part(ds, 0, rollouts("a"), rejected=[Rejection(prompt_id="x", reason="r", detail="1")])
    second = commit_part(
        ds, 0, rollouts("a", text=["other"] * 2), rejected=[Rejection(prompt_id="x", reason="r", detail="2")]
    )
    assert second == first
    assert [entry.name for entry in ds.store.entries() if entry.name.startswith("part")] == [first.data]
    assert [f"_rejected/{entry.name}" for entry in ds.store.entries("_rejected")] == [first.rejected]


def test_a_loser_with_equal_bytes_leaves_the_winners_file(root, generate_spec, rollouts):
    ds = create_dataset(root, generate_spec())
    first = commit_part(ds, 0, rollouts("a"))
    assert commit_part(ds, 0, rollouts("a")) == first
    assert ds.store.exists(first.data)


def test_a_damaged_file_under_the_content_name_is_made_anew(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    record = commit_part(ds, 0, rollouts("a"))
    good = ds.store.read(record.data)
    ds.store.put(record.data, good[:-1])
    ds.store.remove(f"_done/000000-{ds.fp8}.json")
    assert commit_part(ds, 0, rollouts("a")) == record
    assert ds.store.read(record.data) == good


def test_a_marker_outranks_an_earlier_failure(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    fail_part(ds, 0, cause="boom", traceback="")
    commit_part(ds, 0, rollouts("a"))
    assert pending_parts(ds) == PendingParts(todo=(1,), suspects=(), failed=())


def test_attempts_are_counted_over_runs_and_stay_on_record(root, generate_spec):
    ds = create_dataset(root, generate_spec())
    assert [begin_attempt(ds, 0), begin_attempt(ds, 0), begin_attempt(ds, 1)] == [1, 2, 1]
    rerun = create_dataset(root, generate_spec())
    assert [begin_attempt(rerun, 0), begin_attempt(rerun, 0)] == [3, 4]
    record = json.loads(ds.store.read(f"_attempts/000000-{ds.fp8}-2.json"))
    assert list(record) == ["part", "attempt", "time", "host", "pid"]
    assert (record["part"], record["attempt"], record["pid"]) == (0, 2, os.getpid())
    assert record["host"] == socket.gethostname()
    assert datetime.fromisoformat(record["time"]).utcoffset() == timedelta(0)
    assert begin_attempt(load_dataset(root), 0) == 5
    ds.store.remove(f"_attempts/000000-{ds.fp8}-5.json")
    on_record = [entry.name for entry in ds.store.entries("_attempts")]
    assert on_record == [f"000000-{ds.fp8}-{number}.json" for number in (1, 2, 3, 4)] + [f"000001-{ds.fp8}-1.json"]


def test_a_part_given_up_is_counted_anew_by_the_next_run(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=3))
    begin_attempt(ds, 0)
    fail_part(ds, 0, cause="gave up too early", traceback="")
    commit_part(ds, 0, rollouts("a"))
    for _ in range(11):
        begin_attempt(ds, 1)
    for name in (
        "_attempts/notes.txt",
        "_attempts/000001-00000000-17.json",
        "_failed/notes.txt",
        "_failed/000002-00000000.json",
        "_done/000001-00000000.json",
    ):
        ds.store.create(name, b"{}")
    assert load_dataset(near_root).attempts_before == {}
    fail_part(ds, 1, cause="killed its worker", traceback="")
    assert json.loads(ds.store.read(f"_failed/000001-{ds.fp8}.json"))["attempts"] == 11
    assert load_dataset(near_root).attempts_before == {1: 11}
    assert begin_attempt(load_dataset(near_root), 1) == 1
    assert ds.store.exists(f"_attempts/000001-{ds.fp8}-12.json")


def test_a_failure_says_why_and_a_later_one_replaces_it(near_root, generate_spec):
    ds = create_dataset(near_root, generate_spec())
    fail_part(ds, 0, cause="first", traceback="a")
    fail_part(ds, 0, cause="second", traceback="b")
    record = json.loads(ds.store.read(f"_failed/000000-{ds.fp8}.json"))
    assert (record["part"], record["cause"], record["traceback"]) == (0, "second", "b")


@pytest.mark.parametrize("finalized", [False, True])
def test_a_marker_whose_file_is_gone_is_void_and_the_part_is_redone(root, generate_spec, rollouts, finalized):
    ds = create_dataset(root, generate_spec())
    first = commit_part(ds, 0, rollouts("a"))
    commit_part(ds, 1, rollouts("b"))
    if finalized:
        finalize(ds)
    ds.store.remove(first.data)
    assert pending_parts(ds).todo == (0,)
    assert commit_part(ds, 0, rollouts("a", text=["anew"] * 2)) != first
    finalize(ds)
    assert open_dataset(root).read_part(0)["text"].to_pylist() == ["anew"] * 2
    assert verify(root) == []


def test_a_void_marker_is_seen_though_another_file_of_the_part_lies_there(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    other = commit_part(
        create_dataset(f"{near_root}/other", generate_spec(parts=1)), 0, rollouts("a", text=["orphan"] * 2)
    )
    ds.store.create(other.data, Store(f"{near_root}/other").read(other.data))
    record = commit_part(ds, 0, rollouts("a"))
    assert committed(ds, 0) == record
    ds.store.remove(record.data)
    assert committed(ds, 0) is None
    assert pending_parts(ds).todo == (0,)


def test_a_writer_that_finds_a_void_marker_takes_its_place(root, generate_spec, rollouts):
    ds = create_dataset(root, generate_spec(parts=1))
    first = commit_part(ds, 0, rollouts("a", text=["lost"] * 2))
    ds.store.remove(first.data)
    second = commit_part(ds, 0, rollouts("a"))
    assert second != first
    assert committed(ds, 0) == second


def test_a_table_that_breaks_a_rule_is_refused_before_anything_is_written(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    with pytest.raises(PartError, match=r"part 0 of .*behavior_logprobs and token_ids have different lengths: a/1"):
        commit_part(ds, 0, rollouts("a", behavior_logprobs=[[-1.0, 0.0, -1.0], [-1.0]]))
    with pytest.raises(PartError, match="lacks token_ids"):
        commit_part(ds, 0, rollouts("a").drop_columns(["token_ids"]))
    with pytest.raises(IndexError, match="parts 0 to 1, not 2"):
        commit_part(ds, 2, rollouts("a"))
    assert [entry.name for entry in ds.store.entries()] == ["_dataset.json"]


def test_an_empty_part_can_be_committed_and_read(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    rejected = [Rejection(prompt_id="a", reason="too_long")]
    assert commit_part(ds, 0, rollouts().slice(0, 0), rejected=rejected).rows == 0
    finalize(ds, max_reject_rate=1.0)
    assert open_dataset(near_root).read_part(0).num_rows == 0
    assert verify(near_root) == []


def _job(store: Store, spec, rollouts) -> None:
    ds = create_dataset(store.root, spec, store=store)
    for part in pending_parts(ds).todo:
        begin_attempt(ds, part)
        commit_part(
            ds, part, rollouts(f"g{part}"), rejected=[Rejection(prompt_id=f"g{part}", sample_index=7, reason="r")]
        )
    finalize(ds, max_reject_rate=0.5)


def _contents(folder) -> dict[str, bytes]:
    """Every file but records of attempts and of the run, which hold times, and temporary files of the killed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.parent.name != "_attempts"
        and path.name != "_run.json"
        and not path.name.endswith(".tmp")
    }


def _operations(tmp_path, spec, rollouts) -> int:
    seen: list[str] = []
    _job(Store(str(tmp_path / "counted"), lambda operation, name: seen.append(operation)), spec, rollouts)
    return len(seen)


class _Countdown:
    def __init__(self, operations: int, then) -> None:
        self.left, self.then = operations, then

    def __call__(self, operation: str, name: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.then()


def test_killed_before_any_operation_a_rerun_gives_identical_bytes(tmp_path, generate_spec, rollouts):
    spec = generate_spec()
    operations = _operations(tmp_path, spec, rollouts)
    whole = _contents(tmp_path / "counted")
    assert operations > 40
    for at in range(1, operations + 1):
        folder = tmp_path / f"killed-{at}"
        child = os.fork()
        if child == 0:
            try:
                _job(Store(str(folder), _Countdown(at, lambda: os._exit(9))), spec, rollouts)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, at
        _job(Store(str(folder)), spec, rollouts)
        assert _contents(folder) == whole, at
        assert [finding for finding in verify(str(folder)) if finding.severity == "error"] == [], at


def test_a_disk_full_at_any_operation_leaves_nothing_taken_for_whole(tmp_path, generate_spec, rollouts):
    spec = generate_spec()
    operations = _operations(tmp_path, spec, rollouts)
    whole = _contents(tmp_path / "counted")

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for at in range(1, operations + 1):
        folder = tmp_path / f"full-{at}"
        with pytest.raises(OSError, match="No space left on device"):
            _job(Store(str(folder), _Countdown(at, full)), spec, rollouts)
        assert list(folder.rglob("*.tmp")) == []
        _job(Store(str(folder)), spec, rollouts)
        assert _contents(folder) == whole, at


def test_a_full_disk_says_where_and_what_to_do(tmp_path, generate_spec, rollouts):
    def full(operation: str, name: str) -> None:
        if operation == "create:temporary" and name.startswith("part-"):
            raise OSError(errno.ENOSPC, "No space left on device")

    ds = create_dataset(str(tmp_path), generate_spec(), store=Store(str(tmp_path), full))
    with pytest.raises(StoreError, match=r"creating .*part-000000.* failed: No space left on device.*free space there"):
        commit_part(ds, 0, rollouts("a"))
    assert pending_parts(ds).todo == (0, 1)


def test_extra_columns_are_kept(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    commit_part(ds, 0, rollouts("a").append_column("surprise", pa.array([0.5, 0.25])))
    finalize(ds)
    assert open_dataset(near_root).read_part(0, ["surprise"])["surprise"].to_pylist() == [0.5, 0.25]
    assert verify(near_root) == []
