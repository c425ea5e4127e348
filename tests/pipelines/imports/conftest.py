"""Foreign files made of literals, and what an import of one made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pass_ops import shards
from pipelines.imports.record import Format
from pipelines.imports.run import Imported, ImportOptions, import_rollouts
from pipelines.imports.sources import Entry, read_entries, source_files
from pipelines.parts.operations import Operations


@dataclass(frozen=True)
class Run:
    """A run folder that an import filled."""

    url: str
    made: Imported

    def folder(self, *names: str) -> str:
        return "/".join([self.url, "round-000", *names])

    def rows(self, *names: str) -> list[dict[str, Any]]:
        dataset = shards.open_dataset(self.folder(*names))
        return [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]

    def rejected(self, *names: str) -> list[dict[str, Any]]:
        dataset = shards.open_dataset(self.folder(*names))
        tables = [dataset.read_rejected(part) for part in range(dataset.spec.parts)]
        return [row for table in tables if table is not None for row in table.to_pylist()]

    def block(self) -> dict[str, Any]:
        return dict(shards.open_dataset(self.folder("rollouts")).spec.imported)


@pytest.fixture
def import_run(tmp_path: Path) -> Callable[..., Run]:
    """import_run("trl", path, tokenizer=..., max_reject_rate=...): imports into a folder of its own."""

    def run(form: str, source: Path | str, *, out: str = "run", max_reject_rate: float = 0.05, **options: Any) -> Run:
        url = str(tmp_path / out)
        made = import_rollouts(
            str(source),
            out=url,
            options=ImportOptions(format=form, **options),
            operations=Operations(max_reject_rate=max_reject_rate),
        )
        return Run(url, made)

    return run


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """One JSON value a line; bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """jsonl(rows, name): a file of JSON lines."""
    return lambda rows, name="rows.jsonl": write_jsonl(tmp_path / name, rows)


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """parquet(rows, name): a Parquet file."""
    return lambda rows, name="rows.parquet": write_parquet(tmp_path / name, rows)


@pytest.fixture
def entries() -> Callable[[Path | str, Format], list[Entry]]:
    """entries(path, form): what a source holds, row by row."""
    return lambda source, form: [
        entry for _, _, found in read_entries(source_files(str(source), form), form) for entry in found
    ]
