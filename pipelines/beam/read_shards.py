"""`ReadShards`: a complete dataset of the contract as a PCollection of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops.errors import MissingColumnError, OptionError, StaleInputError
from pass_ops.shards import CompleteDataset, open_dataset
from pipelines.parts.inputs import open_rollouts, open_signal
from pipelines.runners.quiet import beam
from pipelines.shaped.stage import join_signals

Elements = Literal["row_groups", "parts"]


class ReadShards(beam.PTransform):
    """PBegin -> the tables of a complete dataset (prompts, rollouts, a signal, shaped); no group lies in two of them.

    Names of files come from the manifest, and a part is hashed before any of it is read. The parts are dealt out to the
    workers one by one. Nothing is read before the job runs but the dataset's description and its list of parts.

    Args:
        url: the dataset's folder.
        signals: NAME -> folder of a signal of these rollouts; its columns then stand beside theirs, row for row, under
            the names that a shaped dataset has (process_scores, outcome_reward, status_NAME, NAME_logprobs, ...), so
            that `ShapeGroups(elements="tables")` can follow.
        columns: which columns to read; None takes all.
        elements: "row_groups": a table is a row group of a part, about 1,024 rows. "parts": it is a whole part.
        keyed: elements are (part number, table), as `WriteShards(keyed=True)` takes them.

    Raises, where the transform is made:
        NotADatasetError, IncompleteDatasetError, CorruptDatasetError: `url` or a signal is no complete dataset.
        StaleInputError: an input of theirs holds something else now, or a signal is of other rollouts.
        WrongInputError: signals are given to something else than rollouts, or are no signals.
        OptionError: `elements` is neither of the two.
    In a worker: CorruptDatasetError for a damaged part, AlignmentError for a signal of other rows, MissingColumnError
    for a column that is not there, StaleInputError for a dataset that was made anew since.
    """

    def __init__(
        self,
        url: str,
        *,
        signals: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
        elements: Elements = "row_groups",
        keyed: bool = False,
    ) -> None:
        super().__init__()
        if elements not in get_args(Elements):
            raise OptionError(f"elements: expected one of {', '.join(get_args(Elements))}, got {elements!r}")
        dataset = open_rollouts(url) if signals else open_dataset(url)
        dataset.check_inputs()
        opened = {name: open_signal(folder, name, dataset) for name, folder in (signals or {}).items()}
        self._parts = dataset.spec.parts
        self._reader = _ReadPart(
            dataset=_Recorded.of(dataset),
            signals={name: _Recorded.of(signal) for name, signal in opened.items()},
            columns=None if columns is None else tuple(columns),
            whole=elements == "parts",
            keyed=keyed,
        )

    def expand(self, begin: Any) -> Any:
        """Create -> Reshuffle -> read."""
        return (
            begin
            | "parts" >> beam.Create(range(self._parts), reshuffle=False)
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.ParDo(self._reader)
        )


class _Recorded:
    """A dataset as the client found it."""

    def __init__(self, url: str, content_digest: str) -> None:
        self._url = url
        self._content_digest = content_digest

    @classmethod
    def of(cls, dataset: CompleteDataset) -> _Recorded:
        return cls(dataset.url, dataset.content_digest)

    def open(self) -> CompleteDataset:
        """In a worker: still the same. Raises StaleInputError."""
        dataset = open_dataset(self._url)
        if dataset.content_digest != self._content_digest:
            raise StaleInputError(
                f"{self._url} has content digest {dataset.content_digest[:16]} now and had "
                f"{self._content_digest[:16]} when this pipeline was made: it was made anew meanwhile. Run the "
                "pipeline again"
            )
        return dataset


class _ReadPart(beam.DoFn):
    """Part number -> its tables."""

    def __init__(
        self,
        *,
        dataset: _Recorded,
        signals: Mapping[str, _Recorded],
        columns: tuple[str, ...] | None,
        whole: bool,
        keyed: bool,
    ) -> None:
        self._recorded = dataset
        self._signals_recorded = dict(signals)
        self._columns = columns
        self._whole = whole
        self._keyed = keyed
        self._dataset: CompleteDataset | None = None
        self._signals: dict[str, CompleteDataset] = {}

    def setup(self) -> None:
        """The datasets, once a worker."""
        self._dataset = self._recorded.open()
        self._signals = {name: recorded.open() for name, recorded in self._signals_recorded.items()}

    def process(self, part: int) -> Iterator[Any]:
        assert self._dataset is not None
        if not self._signals:
            tables = _tables(self._dataset.open_part(part), self._columns, whole=self._whole)
        else:
            tables = self._joined(part)
        for table in tables:
            yield (part, table) if self._keyed else table

    def _joined(self, part: int) -> Iterator[pa.Table]:
        """Rollouts and signals have the same row groups (contract), so they are read side by side."""
        assert self._dataset is not None
        rollouts = _tables(self._dataset.open_part(part), None, whole=self._whole)
        signals = {
            name: _tables(signal.open_part(part), None, whole=self._whole) for name, signal in self._signals.items()
        }
        for table in rollouts:
            joined = join_signals(table, {name: next(rows, pa.table({})) for name, rows in signals.items()})
            yield joined if self._columns is None else joined.select(list(self._columns))


def _tables(file: pq.ParquetFile, columns: tuple[str, ...] | None, *, whole: bool) -> Iterator[pa.Table]:
    names = None if columns is None else list(columns)
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if missing:
        raise MissingColumnError(
            f"the dataset has no column {', '.join(sorted(missing))}; it has {', '.join(file.schema_arrow.names)}"
        )
    with file:
        if whole:
            yield file.read(columns=names)
            return
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=names)
