"""An index of every row of the data, read from its light columns, and the filters applied to it.

Dimensions: _R rows (rollouts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import pairwise
from os import PathLike, fspath
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.shards import CompleteDataset
from pass_ops.shards.tables import read_columns
from trainer.errors import TrainDataError
from trainer.options import TrainOptions
from trainer.order import Units, form_units
from trainer.rollouts import offsets_of
from trainer.unique import check_unique, hashes_of

BEHAVIOR_COLUMN, REFERENCE_COLUMN = "behavior_logprobs", "reference_logprobs"
INDEX_COLUMNS = (
    "group_id", "rollout_id", "prompt_token_ids", "loss_mask", "chunk_ends", "chunk_advantages", "trainable", "round",
    BEHAVIOR_COLUMN,
)  # fmt: skip
LARGEST_LOGPROB = 1e-4  # 0 but for rounding
REMOTE_READERS = 16  # at 50 ms a read, 320 parts a second


@dataclass(frozen=True, kw_only=True)
class RowIndex:
    """One entry per row, over all parts of all sources in order. part_R numbers the parts across sources.

    26 bytes a row: 260 MB for ten million.
    """

    part_R: NDArray[np.int32]
    row_R: NDArray[np.int32]  # within its part
    group_R: NDArray[np.int32]  # dense, increasing; a group never spans parts
    length_R: NDArray[np.int32]  # prompt + completion tokens
    unmasked_R: NDArray[np.int32]
    round_R: NDArray[np.int32]
    trainable_R: NDArray[np.bool_]
    zero_R: NDArray[np.bool_]  # every chunk advantage is 0

    def __len__(self) -> int:
        return len(self.part_R)

    @staticmethod
    def empty(rows: int) -> RowIndex:
        """Room for so many rows, to be filled in place: blocks of parts, joined at the end, would be held twice."""
        kinds = {name: np.bool_ if name in ("trainable_R", "zero_R") else np.int32 for name in _FIELDS}
        return RowIndex(**{name: np.empty(rows, kind) for name, kind in kinds.items()})


_FIELDS = tuple(item.name for item in fields(RowIndex))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the filters left: units to order, the rows among them that add nothing (masked_R), and counts."""

    units: Units
    masked_R: NDArray[np.bool_]  # over all rows of the index: in the denominators, not in the numerator
    counts: Mapping[str, int]


Columns = Callable[[Sequence[str]], pa.Table]
"""What makes a table with these columns of a part whose content is at hand; once."""


class TrainData(Protocol):
    """Where rollouts come from: `ShapedData`, `trainer.pairs.PairData`, or a class derived from this one, whose parts
    are then in memory.
    """

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Part -> (source, part of that source)."""

    @property
    def digests(self) -> list[str]:
        """Digests that identify the content."""

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Part `part` with these columns of a shaped dataset."""

    def fetch(self, part: int) -> Columns:
        """The first half of `read`: what waits for a store elsewhere. The other half is to call what this returns."""
        return partial(self.read, part)

    def rows(self, part: int) -> int:
        """How many rows a part has, as its dataset records it."""

    def stored_bytes(self, part: int) -> int:  # noqa: ARG002 - of any part
        """About as much memory as a fetched part takes beside what is held anyway."""
        return 0

    @property
    def is_local(self) -> bool:
        """Whether all of it lies on disks of this machine."""
        return True

    def describe(self, part: int) -> str:
        """Where a part is, for messages."""


@dataclass(frozen=True)
class ShapedData:
    """Several sources as one list of parts."""

    sources: tuple[CompleteDataset, ...]

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Part -> (source, part of that source)."""
        return tuple((s, i) for s, source in enumerate(self.sources) for i in range(len(source.parts)))

    @property
    def digests(self) -> list[str]:
        """Content digests of the sources."""
        return [source.content_digest for source in self.sources]

    @property
    def is_local(self) -> bool:
        """Whether all of it lies on disks of this machine."""
        return all(source.store.is_local for source in self.sources)

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Part `part` with these columns. Raises TrainDataError where one is missing, CorruptDatasetError."""
        return self.fetch(part)(columns)

    def fetch(self, part: int) -> Columns:
        """Part `part`'s whole file, hashed, if it lies on a store elsewhere; else the open file."""
        source, i = self.places[part]
        return partial(self._table, part, self.sources[source].open_part(i))

    def rows(self, part: int) -> int:
        """Rows of the part, as its marker counts them."""
        source, i = self.places[part]
        return self.sources[source].parts[i].rows

    def stored_bytes(self, part: int) -> int:
        """Bytes of the part's file."""
        source, i = self.places[part]
        return self.sources[source].parts[i].bytes

    def _table(self, part: int, file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
        with file:
            table = read_columns(file, columns)
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            raise TrainDataError(
                f"{self.describe(part)} has no column {', '.join(missing)}. The trainer needs a shaped dataset"
                + (" with a reference signal for the KL term, or kl_coef 0." if REFERENCE_COLUMN in missing else ".")
            )
        return table

    def describe(self, part: int) -> str:
        """Where a part is, for messages."""
        source, i = self.places[part]
        return f"{self.sources[source].url}, part {i}"


def given_urls(given: object, *, name: str, what: str) -> list[str]:
    """The list of URLs or paths a caller gave. Raises TrainDataError for anything else, and for an empty list."""
    if isinstance(given, (str, PathLike)):
        raise TrainDataError(f"{name} is the text {str(given)!r}; give a list of {what}: [{str(given)!r}].")
    if not isinstance(given, Sequence) or not all(isinstance(url, (str, PathLike)) for url in given):
        raise TrainDataError(f"{name} is {given!r}; give a list of {what}.")
    if not given:
        raise TrainDataError(f"No {what} were given; there is nothing to train on.")
    return [fspath(url) for url in given]


def reader_threads(data: TrainData, decode_threads: int) -> int:
    """Threads that read parts: of a store elsewhere at least REMOTE_READERS, because each mostly waits for it."""
    return decode_threads if data.is_local else max(decode_threads, REMOTE_READERS)


def build_index(data: TrainData, *, threads: int, reference: bool = False) -> RowIndex:
    """Reads the light columns of every part, `threads` parts at a time, and checks the log-probabilities.

    reference: also those of the reference. Raises TrainDataError for values that are NaN, infinite or above 0, for
    columns without any, and for a rollout that a source has twice.
    """
    if not data.places:
        raise TrainDataError("The shaped datasets have no parts; there is nothing to train on.")
    bounds_P1 = offsets_of([data.rows(part) for part in range(len(data.places))])
    rows_P = [slice(first, last) for first, last in pairwise(bounds_P1.tolist())]
    index, hashes_R = RowIndex.empty(int(bounds_P1[-1])), np.empty(int(bounds_P1[-1]), np.uint64)
    fill = partial(_index_part, data, index, hashes_R, reference=reference)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(fill, range(len(rows_P)), rows_P))
    check_unique(data, [hashes_R[rows] for rows in rows_P])
    for name in (BEHAVIOR_COLUMN, *((REFERENCE_COLUMN,) if reference else ())):
        if not sum(counts[name] for counts in found) and index.unmasked_R.any():
            raise TrainDataError(
                f"The datasets hold no {name} at all ({data.describe(0)}). Without them every token would be left out; "
                "generate, score or import the rollouts with log-probabilities."
            )
    groups = 0
    for rows, counts in zip(rows_P, found, strict=True):
        index.group_R[rows] += groups
        groups += counts["groups"]
    return index


def check_logprobs(table: pa.Table, name: str, *, where: str) -> int:
    """How many log-probabilities the column has. Raises TrainDataError where one is NaN, infinite or above 0."""
    values = list_values(table[name])
    wrong = np.flatnonzero(~(np.isfinite(values) & (values <= LARGEST_LOGPROB)))
    if len(wrong):
        row = int(np.searchsorted(list_offsets(table[name]), wrong[0], side="right")) - 1
        raise TrainDataError(
            f"{where}: rollout {table['rollout_id'][row].as_py()} has {name} {values[wrong[0]]}, which is no logarithm "
            f"of a probability ({len(wrong)} such values in the part). Run passrl verify on the dataset, and make the "
            "rollouts or the signal again."
        )
    return len(values)


def _index_part(
    data: TrainData, index: RowIndex, hashes_R: NDArray[np.uint64], part: int, rows: slice, *, reference: bool
) -> dict[str, int]:
    """Fill in a part's rows of the index; how many groups and how many of each log-probability it has."""
    table = data.read(part, (*INDEX_COLUMNS, REFERENCE_COLUMN) if reference else INDEX_COLUMNS)
    if table.num_rows != rows.stop - rows.start:
        raise TrainDataError(
            f"{data.describe(part)} has {table.num_rows} rows, and its dataset counts {rows.stop - rows.start}. "
            "Run passrl verify on the dataset, and make it again."
        )
    logprobs = (BEHAVIOR_COLUMN, REFERENCE_COLUMN) if reference else (BEHAVIOR_COLUMN,)
    counts = {name: check_logprobs(table, name, where=data.describe(part)) for name in logprobs}
    bounds_G1 = group_bounds(table["group_id"])
    hashes_R[rows] = hashes_of(table["rollout_id"])
    index.part_R[rows] = part
    index.row_R[rows] = np.arange(table.num_rows)
    index.group_R[rows] = group_numbers(bounds_G1)
    index.length_R[rows] = list_lengths(table["prompt_token_ids"]) + list_lengths(table["loss_mask"])
    index.unmasked_R[rows] = _row_counts(table["loss_mask"], lambda values: values)
    index.round_R[rows] = table["round"].to_numpy()
    index.trainable_R[rows] = table["trainable"].to_numpy().astype(bool) & (index.unmasked_R[rows] > 0)
    index.zero_R[rows] = _row_counts(table["chunk_advantages"], lambda values: values != 0) == 0
    return {**counts, "groups": len(bounds_G1) - 1}


def _row_counts(lists: pa.ChunkedArray, test: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.int64]:
    """How many entries of each list pass the test."""
    passed = np.concatenate([[0], np.cumsum(test(list_values(lists)), dtype=np.int64)])
    bounds = list_offsets(lists)
    counts_R: NDArray[np.int64] = passed[bounds[1:]] - passed[bounds[:-1]]
    return counts_R


def select(index: RowIndex, options: TrainOptions, *, context: int) -> Selection:
    """Applies the filters and forms the units.

    Dropped in this order and counted under these names: untrainable, too_old, zero_advantage, too_long. Raises
    TrainDataError where a kept rollout is longer than `context`, or no row is left.
    """
    limit = options.max_length or context
    keep_R = index.trainable_R.copy()
    counts = {"total": len(index), "untrainable": int((~keep_R).sum())}

    def drop(name: str, bad_R: NDArray[np.bool_]) -> None:
        counts[name] = int((keep_R & bad_R).sum())
        keep_R[bad_R] = False

    drop("too_old", index.round_R < (options.min_round if options.min_round is not None else np.iinfo(np.int64).min))
    unit_R = index.group_R if options.unit == "group" else np.arange(len(index), dtype=np.int32)
    if options.zero_advantage == "drop":
        live_units = np.unique(unit_R[keep_R & ~index.zero_R])
        drop("zero_advantage", ~np.isin(unit_R, live_units))
    long_R = index.length_R > limit
    if options.too_long == "drop":
        drop("too_long", long_R)
    masked_R = long_R & keep_R if options.too_long == "mask" else np.zeros(len(index), bool)
    counts |= {"masked_too_long": int(masked_R.sum()), "left": int(keep_R.sum())}
    _check_selection(index, keep_R & ~masked_R, counts=counts, context=context)
    rows_R = np.flatnonzero(keep_R).astype(np.int32)
    units = form_units(rows_R, unit_R=unit_R[rows_R], part_R=index.part_R[rows_R], tokens_R=index.length_R[rows_R])
    return Selection(units=units, masked_R=masked_R, counts=counts)


def _check_selection(index: RowIndex, fed_R: NDArray[np.bool_], *, counts: Mapping[str, int], context: int) -> None:
    if not fed_R.any():
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise TrainDataError(f"No rollout is left to train on ({shown}). Check the signals, or loosen a filter.")
    longest = int(index.length_R[fed_R].max())
    if longest > context:
        raise TrainDataError(
            f"{int((index.length_R[fed_R] > context).sum())} rollouts are longer than the policy's context "
            f"({longest} tokens against {context}). Set too_long to 'mask' or 'drop'."
        )


def list_offsets(lists: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Where each list starts in `list_values`, and where the last one ends."""
    return offsets_of(list_lengths(lists))
