"""The progress of a dataset or RUN folder, from the store alone: no job and no runner is asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pass_ops.shards import names
from pass_ops.shards.commit import last_attempts
from pass_ops.shards.dataset import dataset_folders, read_dataset_json
from pass_ops.shards.deletion import read_deletion
from pass_ops.shards.finalize import reject_rate
from pass_ops.shards.records import PartRecord, parse_marker, read_manifest
from pass_ops.shards.store import Store

_READ_AT_MOST = 2000  # markers read for the counts of an unfinished dataset; beyond that a sample is scaled up
_RECENT = 50  # parts the present rate is taken from


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """One dataset. done + failed + missing = parts.

    exact: False where rows, groups, tokens, reject_rate and rejected are scaled up from a sample of the markers.
    rejected: reason -> rejections. deleted: the rule by which the rows of a complete dataset were deleted.
    parts_per_second, tokens_per_second: over the last 50 parts done, by when their attempts began, as `_attempts` has
    it: no file's own time is read, for a copy has others. None with fewer than two, or without their records.
    eta_seconds: for the parts not done, at that rate; 0 when there are none, None where there is no rate.
    """

    url: str
    stage: str
    fingerprint: str
    complete: bool
    parts: int
    done: int
    failed: int
    missing: int
    rows: int
    groups: int
    tokens: int
    reject_rate: float
    exact: bool
    parts_per_second: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    rejected: Mapping[str, int]
    deleted: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Every dataset at or below a folder, in order of folder."""

    url: str
    datasets: tuple[DatasetStatus, ...]


def status(url: str) -> RunStatus:
    """How far every dataset at or below `url` is. Raises NotADatasetError if there is none."""
    return RunStatus(url=url, datasets=tuple(_dataset(folder) for folder in dataset_folders(url)))


def _dataset(store: Store) -> DatasetStatus:
    spec, _ = read_dataset_json(store)
    fp8 = spec.fingerprint[:8]
    markers = _own(store, names.DONE, fp8)
    failed = _own(store, names.FAILED, fp8) - markers
    manifest = read_manifest(store, names.manifest(fp8))
    rate = _rate(store, sorted(markers), fp8)
    left = spec.parts - len(markers)
    if manifest is not None:
        rows, groups, tokens = (manifest.totals[name] for name in ("rows", "groups", "tokens"))
        lost, rejected = manifest.totals["rejected_rollouts"], manifest.rejected
        share, exact = (lost / (lost + rows) if lost else 0.0), True
    else:
        records = _sample(store, sorted(markers), fp8)
        scale = len(markers) / max(1, len(records))
        rows, groups, tokens = (
            round(scale * sum(getattr(record, name) for record in records)) for name in ("rows", "groups", "tokens")
        )
        share, exact = reject_rate(records), len(records) == len(markers)
        counts = sum((Counter(record.reasons) for record in records), Counter[str]())
        rejected = {reason: round(scale * count) for reason, count in counts.items()}
    return DatasetStatus(
        url=store.root,
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        complete=manifest is not None,
        parts=spec.parts,
        done=len(markers),
        failed=len(failed),
        missing=left - len(failed),
        rows=rows,
        groups=groups,
        tokens=tokens,
        reject_rate=share,
        exact=exact,
        parts_per_second=rate,
        tokens_per_second=rate * tokens / len(markers) if rate is not None else None,
        eta_seconds=0.0 if left == 0 else (left / rate if rate else None),
        rejected=rejected,
        deleted=deletion.rule if (deletion := read_deletion(store, fp8)) is not None else None,
    )


def _own(store: Store, folder: str, fp8: str) -> set[int]:
    """Parts with a file of this fingerprint in a folder."""
    found = (names.parse(folder, entry.name) for entry in store.entries(folder))
    return {name.part for name in found if name is not None and name.fp8 == fp8}


def _rate(store: Store, done: Sequence[int], fp8: str) -> float | None:
    """Parts a second, from when the last attempts of parts that are done began."""
    last = last_attempts(store, fp8)
    tried = [part for part in done if part in last]
    step = _step(tried)
    contents = store.read_many([names.attempt(part, fp8, last[part]) for part in tried[::step]])
    known = sorted(time for content in contents.values() if (time := _began(content)) is not None)
    times = known[-max(2, _RECENT // step) :]
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    return step * (len(times) - 1) / (times[-1] - times[0])


def _began(attempt: bytes | None) -> float | None:
    """When an attempt began, in seconds since the epoch; None where its record is gone or does not tell."""
    try:
        return datetime.fromisoformat(json.loads(attempt or b"")["time"]).timestamp()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _step(parts: Sequence[int]) -> int:
    """Of so many parts one is read."""
    return max(1, -(-len(parts) // _READ_AT_MOST))


def _sample(store: Store, parts: Sequence[int], fp8: str) -> list[PartRecord]:
    """Records of the parts, or of evenly spaced ones where there are many."""
    contents = store.read_many([names.done(part, fp8) for part in parts[:: _step(parts)]])
    return [parse_marker(content, store, name) for name, content in contents.items() if content is not None]
