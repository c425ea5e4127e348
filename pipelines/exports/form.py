"""What a format to export to says of itself, and what all of them make of a shaped part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import shards, token_advantages
from pass_ops.errors import PassError
from pass_ops.reading.ragged import list_values

Settings = Mapping[str, Any]


class ExportError(PassError, ValueError):
    """A dataset cannot be exported as asked: another stage, a missing setting, a folder in use, an unknown format."""


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One format.

    Attributes:
        name: what the command line calls it.
        summary: one line: what the files are, and who reads them.
        stage: the stage of the dataset it is made from: shape or prompts.
        file: the name of a part's file, with {part:05d}.
        encode: a part's table -> the rows it holds and the file's bytes. A pure function; memory holds one part.
        columns: what it reads; None for all. Names that the dataset does not have are left out.
        needs_known: of these, what an import may not know and the format cannot do without.
        settings: the settings it knows, with what they mean; those of `needed` have to be given.
        beside: further files of the export, by name, from the dataset and what was written.
    """

    name: str
    summary: str
    stage: Literal["shape", "prompts"]
    file: str
    encode: Callable[[pa.Table, shards.CompleteDataset, Settings], tuple[int, bytes]]
    columns: tuple[str, ...] | None = None
    needs_known: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    beside: Callable[[shards.CompleteDataset, int], Mapping[str, bytes]] | None = None


def advantages(table: pa.Table) -> pa.ListArray:
    """One float32 for each completion token; 0 where the token does not count.

    >>> advantages(pa.table({
    ...     "loss_mask": [[True, False, True], [True]],
    ...     "chunk_ends": pa.array([[2, 3], [1]], pa.list_(pa.int32())),
    ...     "chunk_advantages": pa.array([[1.5, -1.0], [0.5]], pa.list_(pa.float32())),
    ... })).to_pylist()
    [[1.5, 0.0, -1.0], [0.5]]
    """
    spread = token_advantages(table)
    counted = pa.array(list_values(table["loss_mask"]))
    flat = pc.if_else(counted, spread.values, pa.scalar(0.0, pa.float32()))
    return pa.ListArray.from_arrays(spread.offsets, flat)


def sampling_temperature(dataset: shards.CompleteDataset) -> float:
    """The temperature that the rollouts were sampled at. Raises ExportError where the dataset does not say."""
    temperature = dataset.spec.carried["sampling"]["temperature"]
    if temperature is None:
        raise ExportError(
            f"{dataset.url} does not say at what temperature it was sampled, which the format has a place for; "
            "import the rollouts with --temperature"
        )
    return float(temperature)


def trainable(table: pa.Table) -> pa.Table:
    """The rows there is something to learn from; formats without a place for that leave the others out."""
    return table.filter(table["trainable"])


def json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON, one row a line; floats as float32 needs them to be read back the same."""
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)
