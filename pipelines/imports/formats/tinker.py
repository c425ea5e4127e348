"""tinker's capture store (tinker-cookbook, `capture_to_store`): `capture.sqlite`, table wire_rows.

One row a sampled sequence: run_id, split, iteration, group_idx, traj_idx, sampling_session_id, seq_id, sample_idx,
policy_version, prompt_tokens, sampled_tokens and logprobs as JSON, metadata {sampling_params, stop_reason}. Rows of
one trajectory are its turns: where a turn's prompt goes on from the turns before, they are one rollout, and the tokens
between do not count. Rows without group_idx are grouped by their call, whose samples they are. No reward is stored.
Log-probabilities are kept where the call says temperature 1, since no field says what they are of at another.
"""

from __future__ import annotations

import json
import os
import posixpath
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pass_ops.shards import Store
from pass_ops.shards.documents import parse_json
from pipelines.imports.check import finish_reason, number
from pipelines.imports.record import Format, ImportSourceError, Place, Record
from pipelines.imports.values import as_text, turns_of
from pipelines.rows.fields import FIELDS, list_of, of
from pipelines.rows.read import MAX_ROW_BYTES, SourceRow
from pipelines.rows.record import RejectedRow, RowError, RowFileError

_KEYS = ("run_id", "run_attempt", "split", "iteration", "group_idx", "traj_idx")
_CALL = ("sampling_session_id", "seq_id", "sample_idx")
_JSON = ("prompt_tokens", "sampled_tokens", "logprobs", "metadata")
_COLUMNS = ("cursor", *_KEYS, *_CALL, "policy_version", *_JSON)


def rows(url: str, *, skip: int = 0) -> Iterator[SourceRow | RejectedRow]:
    """The trajectories of a store, their turns in order. Raises RowFileError, ImportSourceError."""
    store = Store(url)
    if not store.is_local:
        raise ImportSourceError(f"{url}: an SQLite file is read where it lies. Copy it to a local disk.")
    path = store.path()
    if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
        raise ImportSourceError(
            f"{url} has rows in {posixpath.basename(path)}-wal that are not in the file yet. Stop the store's daemon, "
            "which writes them there, or copy the store with `sqlite3 capture.sqlite '.backup copy.sqlite'`."
        )
    try:
        yield from islice(_trajectories(path), skip, None)
    except sqlite3.Error as error:
        raise RowFileError(f"{url} cannot be read as a capture store: {error}.") from error


def _trajectories(path: str) -> Iterator[SourceRow | RejectedRow]:
    name = posixpath.basename(path)
    with sqlite3.connect(f"file:{path.replace('?', '%3f').replace('#', '%23')}?mode=ro&immutable=1", uri=True) as table:
        table.execute("PRAGMA trusted_schema = OFF")
        columns = ", ".join(f'"{column}"' for column in _COLUMNS)
        order = ", ".join(f'"{column}"' for column in (*_KEYS, *_CALL[:2], "cursor"))
        found = table.execute(f"SELECT {columns} FROM wire_rows ORDER BY {order}")
        turns: list[dict[str, Any]] = []
        for values in found:
            row = dict(zip(_COLUMNS, values, strict=True))
            if turns and not _goes_on(turns[-1], row):
                yield _joined(turns, name)
                turns = []
            turns.append(row)
        if turns:
            yield _joined(turns, name)
    table.close()


def _goes_on(before: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether two rows are turns of one trajectory, as far as their keys say; samples of one call are not."""
    return (
        row["traj_idx"] is not None
        and before["seq_id"] != row["seq_id"]
        and all(before[key] == row[key] for key in _KEYS)
    )


def _joined(turns: list[dict[str, Any]], name: str) -> SourceRow | RejectedRow:
    cursor = turns[0]["cursor"]
    where = f"{name} cursor {cursor}"
    size = sum(len(turn[key]) for turn in turns for key in _JSON if isinstance(turn[key], str))
    if size > MAX_ROW_BYTES:
        return RejectedRow(where=where, reason="gigantic", detail=f"it is longer than {MAX_ROW_BYTES // 2**20} MiB")
    try:
        parsed = [turn | {key: _value(turn[key]) for key in _JSON} for turn in turns]
    except ValueError as error:
        return RejectedRow(where=where, reason="json", detail=f"a column is not JSON: {error}")
    return SourceRow(where=where, number=cursor, values={"turns": parsed})


def _value(column: Any) -> Any:
    return parse_json(column.encode()) if isinstance(column, str) else column


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The trajectory's rollout."""
    turns = list_of(row, "turns")
    first, last = _metadata(turns[0]), _metadata(turns[-1])
    if len({turn["policy_version"] for turn in turns}) > 1:
        raise RowError("several_policies", "its turns were sampled by several versions of the policy")
    temperatures = {number(_sampling(turn).get("temperature"), "temperature") for turn in turns}
    if len(temperatures) > 1:
        raise RowError("temperature", f"its turns were sampled at temperatures {sorted(map(str, temperatures))}")
    (temperature,) = temperatures
    called = [(list_of(turn, "prompt_tokens"), list_of(turn, "sampled_tokens"), turn["logprobs"]) for turn in turns]
    yield Record(
        group=_group(turns[0]),
        sample_index=turns[0]["traj_idx"] if turns[0]["group_idx"] is not None else turns[0]["sample_idx"],
        temperature=temperature,
        model=as_text(first.get("base_model"), "metadata.base_model"),
        finish_reason=finish_reason(last.get("stop_reason")),
        turns=len(turns),
        **turns_of(called if temperature == 1 else [(before, own, None) for before, own, _ in called]),
    )


def _group(turn: Mapping[str, Any]) -> str:
    """Of a group's trajectories, or of the samples of one call."""
    names = _KEYS[:5] if turn["group_idx"] is not None else _CALL[:2]
    if turn[names[-1]] is None:
        raise RowError("group", "neither group_idx nor seq_id says what it belongs to")
    return json.dumps([turn[name] for name in names], separators=(",", ":"))


def _metadata(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    found = of(turn, "metadata")
    if found is not None and not isinstance(found, Mapping):
        raise RowError(FIELDS, f"metadata is {found!r:.60}, not an object")
    return found or {}


def _sampling(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _metadata(turn).get("sampling_params")
    return found if isinstance(found, Mapping) else {}


TINKER = Format(
    name="tinker",
    read=read,
    rows=rows,
    about="tinker's capture store",
    files=(".sqlite",),
    ids="all",
    logprobs="some",
    mask="counts",
    group="key",
    temperature="source",
    tokenizer="source",
    source="tinker-cookbook (August 2026), tinker_cookbook/capture/store/schema.py and capture/instrument.py",
)
