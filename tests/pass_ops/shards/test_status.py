from __future__ import annotations

import importlib
import json
import os
import shutil
from datetime import UTC, datetime

import pytest

from pass_ops.errors import NotADatasetError
from pass_ops.shards import Rejection, Store, begin_attempt, commit_part, create_dataset, fail_part, status


def test_status_counts_done_failed_and_missing_parts_rows_tokens_and_rejections(root, generate_spec, rollouts):
    ds = create_dataset(f"{root}/round-000/rollouts", generate_spec(parts=5))
    commit_part(ds, 0, rollouts("a", "b"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    commit_part(ds, 1, rollouts("c"))
    begin_attempt(ds, 2)
    fail_part(ds, 2, cause="boom", traceback="")
    fail_part(ds, 1, cause="before it was committed", traceback="")
    [found] = status(root).datasets
    assert (found.stage, found.parts, found.done, found.failed, found.missing) == ("generate", 5, 2, 1, 2)
    assert (found.rows, found.groups, found.tokens, found.exact, found.complete) == (6, 3, 15, True, False)
    assert found.reject_rate == pytest.approx(1 / 7)


def attempted(ds, part, rows, *, at):
    """Commit a part whose attempt began so many seconds after the epoch."""
    begin_attempt(ds, part)
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    name = f"_attempts/{part:06d}-{ds.fp8}-1.json"
    ds.store.put(name, json.dumps({**json.loads(ds.store.read(name)), "time": time}).encode())
    commit_part(ds, part, rows)


def test_the_rate_and_the_time_left_come_from_recorded_times(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=10))
    for part in range(4):
        attempted(ds, part, rollouts(f"g{part}"), at=1000.0 + 2 * part)
    begin_attempt(ds, 4)
    [found] = status(near_root).datasets
    assert found.parts_per_second == pytest.approx(0.5)
    assert found.tokens_per_second == pytest.approx(0.5 * 5)
    assert found.eta_seconds == pytest.approx(6 / 0.5)


def test_a_complete_dataset_is_told_from_its_manifest(near_root, make_dataset, rollouts):
    make_dataset(near_root, rollouts("a"), rollouts("b"))
    [found] = status(near_root).datasets
    assert (found.complete, found.done, found.missing, found.rows, found.tokens, found.eta_seconds) == (
        True,
        2,
        0,
        4,
        10,
        0.0,
    )


def test_nothing_done_yet_has_no_rate(near_root, generate_spec):
    create_dataset(near_root, generate_spec())
    [found] = status(near_root).datasets
    assert (found.done, found.missing, found.parts_per_second, found.eta_seconds) == (0, 2, None, None)
    assert (found.rows, found.reject_rate) == (0, 0.0)


def test_every_dataset_of_a_run_is_told(near_root, make_dataset, rollouts, generate_spec):
    for number in range(2):
        make_dataset(f"{near_root}/round-00{number}/rollouts", rollouts("a"), spec=generate_spec(parts=1, seed=number))
    assert [found.url.rsplit("/", 2)[1] for found in status(near_root).datasets] == ["round-000", "round-001"]
    with pytest.raises(NotADatasetError):
        status(f"{near_root}/round-002")


def test_many_markers_are_sampled_evenly_and_the_counts_scaled(tmp_path, generate_spec, rollouts, monkeypatch):
    # by name: the package's attribute of that name is the function
    monkeypatch.setattr(importlib.import_module("pass_ops.shards.status"), "_READ_AT_MOST", 3)
    ds = create_dataset(str(tmp_path), generate_spec(parts=8))
    for part in range(6):
        commit_part(ds, part, rollouts(f"g{part}"))
    [found] = status(str(tmp_path)).datasets
    assert (found.rows, found.tokens, found.exact) == (12, 30, False)


def test_where_there_are_more_markers_than_may_be_read_every_third_is(tmp_path, generate_spec, rollouts, monkeypatch):
    monkeypatch.setattr(importlib.import_module("pass_ops.shards.status"), "_READ_AT_MOST", 3)
    ds = create_dataset(str(tmp_path), generate_spec(parts=8))
    for part in range(7):
        commit_part(ds, part, rollouts(f"g{part}"))
    read = []
    read_many = Store.read_many
    monkeypatch.setattr(Store, "read_many", lambda store, names: read.append(list(names)) or read_many(store, names))
    [found] = status(str(tmp_path)).datasets
    assert read[-1:] == [[f"_done/{part:06d}-{ds.fp8}.json" for part in (0, 3, 6)]]
    assert (found.rows, found.exact) == (14, False)


def test_a_complete_dataset_tells_its_rejections_exactly(near_root, make_dataset, rollouts):
    rejected = [Rejection(prompt_id="x", sample_index=0, reason="r")]
    complete = make_dataset(near_root, rollouts("a"), rejected=rejected)
    [found] = status(near_root).datasets
    assert (found.reject_rate, found.exact, found.fingerprint) == (1 / 3, True, complete.spec.fingerprint)
    assert status(near_root).url == near_root


def test_a_complete_dataset_without_rejections_has_rate_0(near_root, make_dataset, rollouts):
    make_dataset(near_root, rollouts("a"))
    [found] = status(near_root).datasets
    assert (found.reject_rate, found.exact, found.eta_seconds) == (0.0, True, 0.0)


def test_a_complete_dataset_of_nothing_is_told(near_root, make_dataset, rollouts):
    make_dataset(near_root, rollouts("a").slice(0, 0))
    [found] = status(near_root).datasets
    assert (found.complete, found.rows, found.groups, found.tokens, found.reject_rate) == (True, 0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("times", "rate"), [((10.0,), None), ((10.0, 14.0), 0.25), ((10.0, 10.0), None), ((10.0, 10.0, 10.0, 13.0), 1.0)]
)
def test_the_rate_is_of_the_parts_after_the_first(tmp_path, generate_spec, rollouts, times, rate):
    ds = create_dataset(str(tmp_path), generate_spec(parts=5))
    for part, time in enumerate(times):
        attempted(ds, part, rollouts(f"g{part}"), at=time)
    [found] = status(str(tmp_path)).datasets
    assert found.parts_per_second == rate
    assert (found.rows, found.tokens_per_second) == (2 * len(times), rate and rate * 5)
    assert found.eta_seconds == (None if rate is None else (5 - len(times)) / rate)


def test_a_copy_with_other_file_times_has_the_same_rate(tmp_path, generate_spec, rollouts):
    ds = create_dataset(str(tmp_path / "one"), generate_spec(parts=5))
    for part in range(3):
        attempted(ds, part, rollouts(f"g{part}"), at=10.0 * part)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for number, file in enumerate((tmp_path / "two").rglob("*")):
        os.utime(file, (0, 5.0 * number))
    rates = [status(str(tmp_path / name)).datasets[0].parts_per_second for name in ("one", "two")]
    assert rates == [0.1, 0.1]


@pytest.mark.parametrize("record", [b"", b"[]", b"null", b'{"time": 5}', b'{"time": "soon"}', b"\xff"])
def test_an_attempt_that_does_not_tell_its_time_is_passed_over(near_root, generate_spec, rollouts, record):
    ds = create_dataset(near_root, generate_spec(parts=5))
    for part in range(3):
        attempted(ds, part, rollouts(f"g{part}"), at=10.0 * part)
    ds.store.put(f"_attempts/000002-{ds.fp8}-1.json", record)
    assert status(near_root).datasets[0].parts_per_second == 0.1


def test_files_that_are_no_markers_do_not_count(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    commit_part(ds, 0, rollouts("a"))
    ds.store.put("_done/notes.txt", b"hands off")
    ds.store.put("_done/000001-00000000.json", b"of another fingerprint")
    [found] = status(near_root).datasets
    assert (found.done, found.missing) == (1, 1)


@pytest.mark.parametrize("end", ["", "/", "/X", "/X/"])
def test_datasets_are_searched_five_folders_deep_and_not_in_hidden_ones(near_root, generate_spec, end):
    for below in ("b", "a/1/2/3/4", "a/1/2/3/4/5", "c/1/2/3/4/5", ".trash/old", "b/inside/another"):
        create_dataset(f"{near_root}{end.rstrip('/')}/{below}", generate_spec())
    top = f"{near_root}{end}"
    found = [dataset.url for dataset in status(top).datasets]
    assert found == [f"{top.rstrip('/')}/{below}" for below in ("b", "a/1/2/3/4")]


def test_a_folder_without_a_dataset_is_said_to_be_one(near_root):
    with pytest.raises(NotADatasetError) as raised:
        status(near_root)
    assert str(raised.value) == (
        f"there is no dataset at or below {near_root}: no folder with a _dataset.json; check the path"
    )
