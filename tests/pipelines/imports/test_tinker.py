"""tinker's capture store, an SQLite file with the columns of tinker-cookbook's schema.py."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipelines.imports.record import ImportSourceError
from pipelines.rows.record import RowFileError
from pipelines.runs.verify import verify

COLUMNS = (
    "cursor", "run_id", "run_attempt", "split", "iteration", "group_idx", "traj_idx", "purpose", "sampling_session_id",
    "seq_id", "sample_idx", "policy_version", "created_at", "prompt_tokens", "sampled_tokens", "logprobs", "metadata",
)  # fmt: skip
LISTS = ("prompt_tokens", "sampled_tokens", "logprobs", "metadata")


def wire(cursor: int, prompt: Any, sampled: Any, logprobs: Any, *, temperature: float = 1.0, **more: Any) -> dict:
    metadata = {"sampling_params": {"temperature": temperature}, "base_model": "m", "stop_reason": "stop"}
    own = {
        "cursor": cursor, "run_id": "r", "iteration": 2, "group_idx": 1, "traj_idx": 0, "sampling_session_id": "s",
        "seq_id": cursor, "sample_idx": 0, "policy_version": "v1", "prompt_tokens": prompt, "sampled_tokens": sampled,
        "logprobs": logprobs, "metadata": metadata,
    }  # fmt: skip
    return own | more


def store(path: Path, rows: list[dict]) -> Path:
    with sqlite3.connect(path) as table:
        table.execute(f"CREATE TABLE wire_rows (cursor INTEGER PRIMARY KEY, {', '.join(COLUMNS[1:])})")
        for row in rows:
            values = [json.dumps(row[name]) if name in LISTS else row.get(name) for name in COLUMNS]
            table.execute(f"INSERT INTO wire_rows VALUES ({', '.join('?' * len(COLUMNS))})", values)
    table.close()
    return path


def test_turns_of_a_trajectory_are_one_rollout_and_what_stands_between_does_not_count(
    import_run, tmp_path: Path, tiny_model
) -> None:
    rows = [
        wire(1, [1, 2], [5, 6], [-0.5, -0.25]),
        wire(2, [1, 2], [7], [-1.5], traj_idx=1),
        wire(3, [1, 2, 5, 6, 3], [8], [-0.125]),
    ]
    run = import_run("tinker", store(tmp_path / "capture.sqlite", rows), tokenizer=tiny_model)
    first, second = run.rows("rollouts")
    assert (first["token_ids"], first["loss_mask"]) == ([5, 6, 3, 8], [True, True, False, True])
    assert first["behavior_logprobs"] == [-0.5, -0.25, 0.0, -0.125]
    assert (second["token_ids"], second["rollout_id"].rsplit("/")[-1], second["finish_reason"]) == ([7], "1", "stop")
    block = run.block()
    assert (block["ids"], block["logprobs"], block["temperature"]) == ("source", "exact", "source")
    assert verify(run.url) == []


def test_samples_of_a_call_without_a_scope_are_a_group(import_run, tmp_path: Path, tiny_model) -> None:
    loose = {"group_idx": None, "traj_idx": None}
    rows = [wire(at, [1], [5 + at], [-0.5], seq_id=9 - at // 2, sample_idx=at % 2, **loose) for at in range(4)]
    run = import_run("tinker", store(tmp_path / "capture.sqlite", rows), tokenizer=tiny_model)
    assert [row["token_ids"] for row in run.rows("rollouts")] == [[7], [8], [5], [6]]
    assert len(run.rows("prompts")) == 2


def test_log_probabilities_of_another_temperature_are_left(import_run, tmp_path: Path, tiny_model) -> None:
    path = store(tmp_path / "capture.sqlite", [wire(1, [1], [5], [-0.5], temperature=0.7)])
    run = import_run("tinker", path, tokenizer=tiny_model)
    assert run.rows("rollouts")[0]["behavior_logprobs"] is None


BAD: dict[str, tuple[list[dict], str, str]] = {
    "a turn that does not go on": ([wire(1, [1], [5], [-1.0]), wire(2, [1, 9], [6], [-1.0])], "fields", "turn 1"),
    "log-probabilities of another length": ([wire(1, [1], [5], [-1.0, -2.0])], "lengths", "1 token ids and 2"),
    "no tokens": ([wire(1, None, [5], [-1.0])], "fields", "prompt_tokens is None"),
    "no group": ([wire(1, [1], [5], [-1.0], group_idx=None, seq_id=None)], "group", "neither group_idx nor seq_id"),
    "two policies": (
        [wire(1, [1], [5], [-1.0]), wire(2, [1, 5], [6], [-1.0], policy_version="v2")], "several_policies", "versions",
    ),
    "two temperatures": (
        [wire(1, [1], [5], [-1.0]), wire(2, [1, 5], [6], [-1.0], temperature=0.5)], "temperature", "temperatures",
    ),
    "a place that is a text": ([wire(1, [1], [5], [-1.0], traj_idx="x")], "fields", "sample_index is 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trajectory_is_rejected_with_its_cursor(import_run, tmp_path: Path, tiny_model, name: str) -> None:
    bad, reason, detail = BAD[name]
    path = store(tmp_path / "capture.sqlite", [*bad, wire(9, [1], [5], [-1.0], run_id="z")])
    run = import_run("tinker", path, tokenizer=tiny_model, max_reject_rate=0.9)
    (rejected,) = run.rejected("rollouts")
    assert (rejected["reason"], len(run.rows("rollouts"))) == (reason, 1)
    assert rejected["detail"].startswith("capture.sqlite cursor 1: ")
    assert detail in rejected["detail"]


def test_a_column_that_is_no_json_is_rejected(tmp_path: Path, entries) -> None:
    from pipelines.imports.formats import import_format

    path = store(tmp_path / "capture.sqlite", [wire(1, [1], [5], [-1.0])])
    with sqlite3.connect(path) as table:
        table.execute("UPDATE wire_rows SET logprobs = '[NaN]'")
    (found,) = entries(path, import_format("tinker"))
    assert (found.reason, found.where) == ("json", "capture.sqlite cursor 1")


def test_a_file_that_is_no_store_or_not_whole_is_a_named_error(import_run, tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database")
    with pytest.raises(RowFileError, match="cannot be read as a capture store"):
        import_run("tinker", tmp_path / "text.sqlite")
    sqlite3.connect(tmp_path / "empty.sqlite").execute("CREATE TABLE t (a)").connection.close()
    with pytest.raises(RowFileError, match="no such table: wire_rows"):
        import_run("tinker", tmp_path / "empty.sqlite")
    store(tmp_path / "open.sqlite", [wire(1, [1], [5], [-1.0])])
    (tmp_path / "open.sqlite-wal").write_bytes(b"rows")
    with pytest.raises(ImportSourceError, match="Stop the store's daemon"):
        import_run("tinker", tmp_path / "open.sqlite")
