"""Datasets of format version 1 (tests/data/version1.zip, by the program of that time) are as good as new ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pass_ops.errors import FingerprintMismatchError
from pass_ops.shards import (
    FORMAT_VERSION,
    Store,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    pending_parts,
    status,
    verify,
)

STORED = Path(__file__).resolve().parents[2] / "data" / "version1.zip"
ROUND = ("prompts", "rollouts", "signals/outcome", "signals/format", "signals/steps", "shaped")


@pytest.fixture
def run(tmp_path) -> Path:
    """A RUN of one round: prompts, rollouts, three signals, shaped; two parts each."""
    shutil.unpack_archive(STORED, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ROUND)
def test_its_rows_are_read(run, name):
    dataset = open_dataset(str(run / "round-000" / name))
    assert dataset.spec.format_version == dataset.manifest.format_version == 1
    files = sorted((run / "round-000" / name).glob("part-*.parquet"))
    assert [dataset.read_part(part) for part in range(2)] == [pq.read_table(file) for file in files]
    assert sum(dataset.read_part(part).num_rows for part in range(2)) == dataset.manifest.totals["rows"] > 0


def test_it_is_verified_and_its_status_told(run):
    assert [finding.message for finding in verify(str(run)) if finding.severity == "error"] == []
    assert all(dataset.complete for dataset in status(str(run)).datasets)
    part = next((run / "round-000" / "shaped").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-20] + b"x" + part.read_bytes()[-19:])
    assert "sha256" in {finding.code for finding in verify(str(run))}


def test_it_is_completed_in_its_own_format(run):
    url = str(run / "round-000" / "rollouts")
    before, store = open_dataset(url), Store(url)
    table, fp8 = before.read_part(1), before.spec.fingerprint[:8]
    for name in (f"_manifest-{fp8}.json", f"_parts-{fp8}.parquet", f"_done/000001-{fp8}.json", before.parts[1].data):
        store.remove(name)
    asked = _as_asked_today(before.spec)
    assert asked.format_version == FORMAT_VERSION == 2
    dataset = create_dataset(url, asked)
    assert dataset.spec == before.spec
    assert pending_parts(dataset).todo == (1,)
    commit_part(dataset, 1, table)
    finalize(dataset)
    after = open_dataset(url)
    assert after.spec.format_version == after.manifest.format_version == 1
    assert after.read_part(1).equals(table)
    with after.open_part(1) as file:
        assert file.schema_arrow.metadata[b"format_version"] == b"1"
    assert not list((run / "round-000" / "rollouts").glob("*.jsonl"))
    assert [finding for finding in verify(url) if finding.severity == "error"] == []


def test_the_same_dataset_asked_again_changes_nothing(run):
    url = str(run / "round-000" / "shaped")
    before = open_dataset(url)
    dataset = create_dataset(url, _as_asked_today(before.spec), overwrite=True)
    assert "overwrite changed nothing" in dataset.notes[0]
    assert finalize(dataset) == before.manifest


def test_another_dataset_names_what_differs_and_not_the_format(run):
    spec = open_dataset(str(run / "round-000" / "shaped")).spec
    with pytest.raises(FingerprintMismatchError, match=r"seed: 0 there, 9 asked") as raised:
        create_dataset(str(run / "round-000" / "shaped"), _as_asked_today(spec, seed=9))
    assert "format_version" not in str(raised.value)


def _as_asked_today(spec, **changes):
    from dataclasses import replace

    return replace(spec, format_version=FORMAT_VERSION, **changes)
