"""The progress of a dataset or RUN folder, from the store alone: no job and no runner is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pass_ops.shards import names
from pass_ops.shards.dataset import dataset_folders, read_dataset_json
from pass_ops.shards.finalize import reject_rate
from pass_ops.shards.records import PartRecord, parse_marker, read_manifest
from pass_ops.shards.store import Entry, Store

_READ_AT_MOST = 2000  # markers read for the counts of an unfinished dataset; beyond that a sample is scaled up
_RECENT = 50  # commits the present rate is taken from


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """One dataset. done + failed + missing = parts.

    exact: False where rows, groups, tokens and reject_rate are scaled up from a sample of the markers.
    parts_per_second, tokens_per_second: over the last 50 commits, by the markers' times; None with fewer than two.
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
    failed = set(_own(store, names.FAILED, fp8)) - set(markers)
    manifest = read_manifest(store, names.manifest(fp8))
    rate = _rate(list(markers.values()))
    left = spec.parts - len(markers)
    if manifest is not None:
        rows, groups, tokens = (manifest.totals[name] for name in ("rows", "groups", "tokens"))
        rejected = manifest.totals["rejected_rollouts"]
        share, exact = (rejected / (rejected + rows) if rejected else 0.0), True
    else:
        records = _sample(store, sorted(markers), fp8)
        scale = len(markers) / max(1, len(records))
        rows, groups, tokens = (
            round(scale * sum(getattr(record, name) for record in records)) for name in ("rows", "groups", "tokens")
        )
        share, exact = reject_rate(records), len(records) == len(markers)
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
    )


def _own(store: Store, folder: str, fp8: str) -> dict[int, Entry]:
    """Part -> file of this fingerprint in a folder."""
    found = ((names.parse(folder, entry.name), entry) for entry in store.entries(folder))
    return {name.part: entry for name, entry in found if name is not None and name.fp8 == fp8}


def _rate(markers: Sequence[Entry]) -> float | None:
    times = sorted(entry.modified for entry in markers if entry.modified is not None)[-_RECENT:]
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    return (len(times) - 1) / (times[-1] - times[0])


def _sample(store: Store, parts: Sequence[int], fp8: str) -> list[PartRecord]:
    """Records of the parts, or of evenly spaced ones where there are many."""
    step = max(1, -(-len(parts) // _READ_AT_MOST))
    contents = store.read_many([names.done(part, fp8) for part in parts[::step]])
    return [parse_marker(content, store, name) for name, content in contents.items() if content is not None]
