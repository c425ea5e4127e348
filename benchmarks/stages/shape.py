"""The shape stage over stored datasets, against a bare pyarrow read and write of the same columns.

Both read every column of the rollouts and signals of a part and write every column of its shaped part, with the same
encodings, codec and levels, in row groups of as many rows, with as many parts in flight. The stage is the part loop
that workers run, without Beam: it also hashes what it reads and writes, compares row ids, shapes, checks, syncs files
to disk and commits each part.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from around_shape import GROUP, SIGNALS, rollouts_of, signal_of
from bench_shape import make_table

from pass_ops import shards
from pass_ops.shards.encoding import writer_options
from pass_ops.shards.tables import ROWS_PER_ROW_GROUP
from pipelines.parts.loop import PartLoop
from pipelines.shaped.stage import ShapeOptions, shape_stage
from stages.measure import Line, in_turns, line

LIMIT = 1.15
IN_FLIGHT = 2
#: name -> (the case of bench_shape.make_table, the kind of the process signal, further signal columns)
CASES = {
    "per-token KL, reference, format": ("kl_random", "process_tokens", {"reference": ("logprobs",)}),
    "the same, some tokens masked": ("kl_random_mixed_mask", "process_tokens", {"reference": ("logprobs",)}),
    "PRM, format": ("prm", "process_steps", {}),
}
DIGEST = "0" * 64


def lines(folder: Path, *, quick: bool = False) -> Iterator[Line]:
    """Two lines a case: processor time of all threads, and time on the clock."""
    parts, tokens, repeats = (2, 500_000, 3) if quick else (6, 2_000_000, 7)
    for name, (case, kind, further) in CASES.items():
        stored = Stored.written(folder / case, case=case, kind=kind, further=further, parts=parts, tokens=tokens)
        stage, bare = in_turns(repeats, stored.stage, stored.bare)
        for clock in ("processor", "wall"):
            ours, theirs = getattr(stage, clock), getattr(bare, clock)
            yield line(
                f"shape: {name}, {clock}",
                value=1e9 * ours / stored.tokens,
                unit="ns/token",
                against=f"pyarrow alone: {1e9 * theirs / stored.tokens:.1f}",
                ratio=ours / theirs,
                limit=LIMIT,
                parts_in_flight=IN_FLIGHT,
                **stored.sizes(),
            )
        shutil.rmtree(folder / case)


@dataclass(frozen=True)
class Stored:
    """Rollouts and signals on disk, how they are shaped, and where to."""

    folder: Path
    options: ShapeOptions
    sources: dict[str, shards.CompleteDataset]

    @classmethod
    def written(
        cls, folder: Path, *, case: str, kind: str, further: Mapping[str, tuple[str, ...]], parts: int, tokens: int
    ) -> Stored:
        """Inputs of `tokens` tokens a part."""
        columns = {**SIGNALS, **further}
        tables = [part_tables(case, columns, tokens=tokens, part=part) for part in range(parts)]
        rollouts = write_dataset(folder / "rollouts", rollouts_spec(parts), [one["rollouts"] for one in tables])
        made_from = {"rollouts": rollouts.ref(str(folder / "signals" / "process"))}
        sources = {"rollouts": rollouts}
        for name in columns:
            options = {"kind": {"process": kind, "reference": "logprobs"}.get(name, name)}
            spec = shards.DatasetSpec(stage="score", stage_version=1, options=options, parts=parts, inputs=made_from)
            sources[name] = write_dataset(folder / "signals" / name, spec, [one[name] for one in tables])
        roles: dict[str, Any] = {name: name for name in columns}
        return cls(folder, ShapeOptions(**roles), sources)

    @property
    def tokens(self) -> int:
        """Completion tokens of all parts."""
        return sum(part.tokens for part in self.sources["rollouts"].parts)

    @cached_property
    def shaped(self) -> shards.CompleteDataset:
        """What `stage` made first."""
        self.stage()
        return shards.open_dataset(str(self.folder / "shaped"))

    @cached_property
    def made(self) -> list[pa.Table]:
        """Each part's columns that the stage adds to those it reads, in memory, and the rest as no rows of its type."""
        read = {name for part in self.read(0).values() for name in part}
        return [self.shaped.read_part(part, [*set(self.names) - read]) for part in range(len(self.shaped.parts))]

    @cached_property
    def names(self) -> list[str]:
        """The columns of a shaped part, in order."""
        return list(pq.read_schema(f"{self.shaped.url}/{self.shaped.parts[0].data}").names)

    def stage(self) -> None:
        """Make the shaped dataset anew."""
        out = str(self.folder / "shaped")
        shutil.rmtree(out, ignore_errors=True)
        rollouts, signals = self.sources["rollouts"].url, str(self.folder / "signals")
        made = shape_stage(rollouts=rollouts, signals=signals, out=out, options=self.options)
        made.work.setup()
        loop = PartLoop(dataset=made.dataset, work=made.work, parts_in_flight=IN_FLIGHT, max_attempts=1)
        for part in range(made.dataset.spec.parts):
            loop.offer(part)
        loop.drain()
        shards.finalize(made.dataset)

    def bare(self) -> None:
        """Read what the stage reads and write what it writes, and nothing else."""
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(self._bare_part, range(len(self.made)), self.made))

    def _bare_part(self, part: int, made: pa.Table) -> None:
        columns = {name: made[name] for name in made.column_names}
        for read in self.read(part).values():
            columns |= read
        table = pa.table({name: columns[name] for name in self.names})
        path = self.folder / f"bare-{part}.parquet"
        options = writer_options(table.schema, format_version=shards.FORMAT_VERSION)
        pq.write_table(table, path, row_group_size=ROWS_PER_ROW_GROUP, **options)

    def read(self, part: int) -> dict[str, dict[str, pa.ChunkedArray]]:
        """Each input's columns, under the names they have in a shaped part."""
        tables = {name: pq.read_table(f"{one.url}/{one.parts[part].data}") for name, one in self.sources.items()}
        return {name: {shaped_name(name, column): table[column] for column in table.column_names}
                for name, table in tables.items()}  # fmt: skip

    def sizes(self) -> dict[str, Any]:
        """What was read and written."""
        read = sum(part.bytes for source in self.sources.values() for part in source.parts)
        written = sum(part.bytes for part in self.shaped.parts)
        return {
            "tokens": self.tokens,
            "parts": len(self.made),
            "rows": sum(part.rows for part in self.shaped.parts),
            "read_bytes_per_token": round(read / self.tokens, 2),
            "written_bytes_per_token": round(written / self.tokens, 2),
        }


def shaped_name(source: str, column: str) -> str:
    """What a shaped part calls a column of an input."""
    if source != "rollouts" and column in ("status", "detail"):
        return f"{column}_{source}"
    return "reference_logprobs" if column == "logprobs" else column


def part_tables(case: str, columns: dict[str, tuple[str, ...]], *, tokens: int, part: int) -> dict[str, pa.Table]:
    """The rollouts of one part, and each signal."""
    table, _ = make_table(case, tokens, seed=part)
    groups = pa.array(f"{part}-{group}" for group in table["group_id"].to_pylist())
    table = table.set_column(table.schema.get_field_index("group_id"), "group_id", groups)
    rollouts = rollouts_of(table)
    table = table.append_column("logprobs", rollouts["behavior_logprobs"])
    return {
        "rollouts": rollouts,
        **{name: signal_of(table, rollouts["rollout_id"], wanted) for name, wanted in columns.items()},
    }


def rollouts_spec(parts: int) -> shards.DatasetSpec:
    """The description of made-up rollouts."""
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 1024, "group_size": GROUP}
    carried = {"sampling": sampling, "tokenizer_digest": DIGEST, "policy_digest": DIGEST, "round": 0}
    carried["vocabulary"] = {"size": 150_000, "eos": [0], "padding": 0}
    return shards.DatasetSpec(stage="generate", stage_version=1, options={}, parts=parts, carried=carried)


def write_dataset(folder: Path, spec: shards.DatasetSpec, tables: list[pa.Table]) -> shards.CompleteDataset:
    """Commit and finalize a dataset of these parts."""
    dataset = shards.create_dataset(str(folder), spec)
    for part, table in enumerate(tables):
        shards.commit_part(dataset, part, table)
    shards.finalize(dataset)
    return shards.open_dataset(dataset.url)
