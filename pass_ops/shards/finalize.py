"""Completing a dataset: the list of parts and the manifest, from the markers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pass_ops.errors import CorruptDatasetError, NotADatasetError, NotFinalized
from pass_ops.shards import names
from pass_ops.shards.commit import create_whole, parts_in, rejected_files
from pass_ops.shards.dataset import Dataset, read_dataset_json
from pass_ops.shards.documents import json_object
from pass_ops.shards.fingerprint import json_file, sha256_bytes
from pass_ops.shards.records import (
    Manifest,
    PartRecord,
    make_manifest,
    parse_marker,
    parts_bytes,
    read_complete,
    read_manifest,
)
from pass_ops.shards.store import Store

_SHOWN = 10


def finalize(ds: Dataset, *, max_reject_rate: float = 0.05) -> Manifest:
    """Complete the dataset, or raise NotFinalized(reasons) and record them in `_run.json`.

    Counts from markers only. Idempotent: what is finalized stays as it is, and two finalizers write the same bytes.
    Removes data files of this fingerprint whose part has a marker that names another file.
    max_reject_rate: highest share of rejected rollouts among rejected and kept ones (a rejected prompt counts G); for
    a stage without rollouts, of rows.
    """
    _check_current(ds)
    try:
        manifest = _finalize(ds, max_reject_rate)
    except NotFinalized as error:
        record_run(ds, {"finalized": False, "not_finalized": list(error.reasons)})
        raise
    except (CorruptDatasetError, FileNotFoundError):
        _check_current(ds)  # files vanish under a writer whose dataset is being overwritten
        raise
    record_run(ds, {"finalized": True, "not_finalized": []})
    return manifest


def record_run(ds: Dataset, info: Mapping[str, Any]) -> None:
    """Set keys of `_run.json` (when, where, how long, which job): for people, in no digest.

    Raises CorruptDatasetError where what is there cannot be read.
    """
    ds.store.put(names.RUN_RECORD, json_file({**read_run_record(ds.store), **info}))


def read_run_record(store: Store) -> dict[str, Any]:
    """What `_run.json` says; nothing where there is none. Raises CorruptDatasetError."""
    try:
        content = store.read(names.RUN_RECORD)
    except FileNotFoundError:
        return {}
    fix = "remove it: it says when and where the dataset was made, and nothing depends on it"
    return json_object(content, store.path(names.RUN_RECORD), fix=fix)


def reject_rate(records: Sequence[PartRecord]) -> float:
    """Rejected rollouts over rejected plus kept; 0 where there is neither."""
    rejected, kept = sum(record.rejected_rollouts for record in records), sum(record.rows for record in records)
    return rejected / (rejected + kept) if rejected else 0.0


def _finalize(ds: Dataset, max_reject_rate: float) -> Manifest:
    done = parts_in(ds, names.DONE)
    here = {entry.name for entry in ds.store.entries()}
    present = here | rejected_files(ds)
    if names.manifest(ds.fp8) in here:
        complete = read_complete(ds.store, ds.spec)
        if complete is not None:
            manifest, known = complete
            if names.deleted(ds.fp8) in here:
                return manifest
            _refuse(ds, _void(known, present))
            _remove_others(ds, known, present)
            return manifest
    missing = [part for part in range(ds.spec.parts) if part not in done]
    records = _read_markers(ds, sorted(done))
    _refuse(ds, [*_missing(ds, missing), *_void(records, present), *_rejections(records, max_reject_rate)])
    content = parts_bytes(records, ds.spec)
    create_whole(
        ds.store, names.parts(ds.fp8, ds.spec.format_version), content
    )  # one left by a finalize that died, of other markers, goes
    _remove_others(ds, records, present)
    manifest = make_manifest(ds.spec, records, sha256_bytes(content))
    if not ds.store.create(names.manifest(ds.fp8), manifest.to_json()):
        there = read_manifest(ds.store, names.manifest(ds.fp8))
        if there is None or there.parts_sha256 != manifest.parts_sha256:
            raise NotFinalized(["another writer finalized it or took it back at the same time; run again"], ds.url)
    return manifest


def _check_current(ds: Dataset) -> None:
    """Refuse if the folder's dataset is another one by now."""
    try:
        there, _ = read_dataset_json(ds.store)
    except NotADatasetError:
        raise NotFinalized([f"{names.DATASET} is gone: the folder was removed while this job ran"], ds.url) from None
    if there.fingerprint != ds.fingerprint:
        reason = f"the folder was overwritten: it holds fingerprint {there.fingerprint[:8]} now, this job made {ds.fp8}"
        raise NotFinalized([reason], ds.url)


def _read_markers(ds: Dataset, parts: Sequence[int]) -> list[PartRecord]:
    markers = [names.done(part, ds.fp8) for part in parts]
    contents = ds.store.read_many(markers)
    gone = [marker for marker in markers if contents[marker] is None]
    if gone:
        raise NotFinalized([f"the marker {gone[0]} was removed meanwhile; run again"], ds.url)
    return [parse_marker(contents[marker] or b"", ds.store, marker) for marker in markers]


def _missing(ds: Dataset, missing: Sequence[int]) -> list[str]:
    if not missing:
        return []
    failed = parts_in(ds, names.FAILED)
    given_up = [part for part in missing if part in failed]
    undone = [part for part in missing if part not in failed]
    reasons = [f"{len(undone)} of {ds.spec.parts} parts are not done: {_some(undone)}"] if undone else []
    reasons += [
        f"part {part} failed: {_cause(ds, part)} (see {names.failed(part, ds.fp8)})" for part in given_up[:_SHOWN]
    ]
    if len(given_up) > _SHOWN:
        reasons.append(f"{len(given_up) - _SHOWN} more parts failed (see {names.FAILED})")
    return reasons


def _cause(ds: Dataset, part: int) -> str:
    try:
        name = names.failed(part, ds.fp8)
        return str(json_object(ds.store.read(name), ds.store.path(name), fix="").get("cause", "cause unknown"))
    except (FileNotFoundError, CorruptDatasetError):
        return "cause unknown"


def _void(records: Sequence[PartRecord], present: set[str]) -> list[str]:
    void = [record.part for record in records if not present.issuperset(record.files)]
    return [f"files of parts {_some(void)} are gone; run again to redo them"] if void else []


def _rejections(records: Sequence[PartRecord], limit: float) -> list[str]:
    rate = reject_rate(records)
    if rate <= limit:
        return []
    reasons: dict[str, int] = {}
    for record in records:
        for reason, count in record.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    shown = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return [
        f"{rate:.2%} of the rollouts were rejected ({shown}), more than max_reject_rate {limit:.2%}; "
        f"see {names.REJECTED}"
    ]


def _refuse(ds: Dataset, reasons: Sequence[str]) -> None:
    if reasons:
        raise NotFinalized(list(reasons), ds.url)


def _remove_others(ds: Dataset, records: Sequence[PartRecord], present: set[str]) -> None:
    """Remove this fingerprint's data and rejected files that no record names though their part has one."""
    parts = {record.part for record in records}
    named = {file for record in records for file in record.files}
    for name in sorted(present - named):
        folder, _, base = name.rpartition("/")
        found = names.parse(folder, base)
        if found is not None and found.fp8 == ds.fp8 and found.part in parts:
            ds.store.remove(name)


def _some(parts: Sequence[int]) -> str:
    shown = ", ".join(str(part) for part in parts[:_SHOWN])
    return f"{shown} and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else shown
