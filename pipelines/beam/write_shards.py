"""`WriteShards`: the tables of a PCollection become a dataset of the contract, each part committed exactly once.

    tables -> pieces by part -> GroupByKey -> parts -> facts of all parts -> the dataset is begun -> commit -> finalize

Which part a group belongs to, and the order within it, follow from the names alone, so every attempt makes the same
bytes. Nothing is written before all tables were looked at. What commits is `pass_ops.shards`, driven by the loop that
drives every stage's parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, get_args

import pyarrow as pa

from pass_ops import shards
from pass_ops.errors import FingerprintMismatchError, NotFinalized, OptionError, PassError
from pass_ops.shards import CompleteDataset, Dataset, DatasetSpec
from pass_ops.shards.tables import group_keys
from pipelines.beam.assemble import (
    Assembled,
    Facts,
    Layout,
    Piece,
    Plan,
    assembled,
    pieces,
    planned,
    rejected_piece,
    schema_of,
    straddling,
    table_of,
)
from pipelines.beam.tables import as_table
from pipelines.parts.inputs import check_alignment, reopen
from pipelines.parts.loop import PartLoop, PartOutput, PartWork
from pipelines.runners.quiet import beam

Fingerprint = Literal["rows", "spec"]
_FACTS = "facts"


class NotWritten(PassError, RuntimeError):
    """The dataset is not complete; the message says why, as NotFinalized does (which Beam cannot raise again)."""


class WriteShards(beam.PTransform):
    """Tables, or (tables, rejections) -> the dataset's URL, once it is finalized.

    Args:
        url: the dataset's folder; every worker must reach it.
        spec: what the dataset is. Rows get the columns policy_digest and round from its `carried` where they lack them
            (stage shape).
        keyed: False: a table holds any rows, and the sha256 of a group's name decides its part (`part_of_group`);
            within a part the groups are in order of name, the rows in order of sample_index. True: an element is
            (part number, table), one for every part, stored in the order it has; signals must be written so, for their
            rows are those of their rollouts.
        schema: of the tables, for parts without rows; needed only where no table may come at all.
        fingerprint: "rows": the sha256 of all rows goes into the fingerprint (rows_sha256 in `_dataset.json`), so the
            folder refuses other rows, and a rerun with the same ones writes only what is missing. "spec": `spec` is the
            fingerprint; whoever gives it vouches that its options and inputs decide the rows, and for parts that are
            committed nothing is shuffled.
        overwrite: whether a dataset of another fingerprint in the folder is replaced.
        max_reject_rate: share of rejections above which the dataset is not finalized.
        max_attempts: so many attempts at a part that end in an error, or with their worker, give it up.

    A rejection (`pass_ops.shards.Rejection`) is recorded in the part of its prompt_id. Rows without a group are
    rejected, reason no_group. Tables get the contract's types: what loses nothing is cast, float64 rounded to float32.

    Raises, where the transform is made or applied:
        OptionError: an argument is not one of those above, or the PCollection is unbounded.
        PartError: `schema` is none of the stage. FingerprintMismatchError, with "spec": the folder holds another
        dataset.
    In the job:
        TablesRefused: something else than tables, other columns, a group in two parts, a part number given twice, rows
        that break a rule of the stage, or nothing at all. All of it is listed, and nothing is written.
        FingerprintMismatchError: the folder holds another dataset, and `overwrite` was not asked for.
        NotWritten: a part was given up or never came, or too much was rejected. Committed parts stay.
    """

    def __init__(
        self,
        url: str,
        spec: DatasetSpec,
        *,
        keyed: bool = False,
        schema: pa.Schema | None = None,
        fingerprint: Fingerprint = "rows",
        overwrite: bool = False,
        max_reject_rate: float = 0.05,
        max_attempts: int = 3,
    ) -> None:
        super().__init__()
        if fingerprint not in get_args(Fingerprint):
            raise OptionError(f"fingerprint: expected one of {', '.join(get_args(Fingerprint))}, got {fingerprint!r}")
        if spec.stage == "score" and not keyed:
            raise OptionError(
                "keyed: a signal's rows are those of its rollouts, part for part; write pairs (part number, table) "
                "with keyed=True (ReadShards(rollouts, elements='parts', keyed=True) gives them)"
            )
        if spec.stage == "score" and "rollouts" not in spec.inputs:
            raise OptionError("spec: a signal's inputs name its rollouts; add rollouts=open_dataset(ROLLOUTS).ref(url)")
        layout = Layout(spec=spec, keyed=keyed)
        self._layout = Layout(spec=spec, keyed=keyed, schema=None if schema is None else schema_of(schema, layout))
        self._url = url
        self._by_rows = fingerprint == "rows"
        self._overwrite = overwrite
        self._max_reject_rate = max_reject_rate
        self._max_attempts = max_attempts

    def expand(self, given: Any) -> Any:
        """See the head of this file."""
        tables, rejected = given if isinstance(given, tuple) else (given, None)
        layout = self._begun()
        inputs = {"tables": tables} | ({} if rejected is None else {"rejections": rejected})
        for name, collection in inputs.items():
            if not collection.is_bounded:
                raise OptionError(
                    f"the {name} are unbounded, and a dataset has an end; read so many records, or so long"
                )
        whole = {
            name: collection | f"{name} in one window" >> beam.WindowInto(beam.window.GlobalWindows())
            for name, collection in inputs.items()
        }
        given_pieces = [
            whole["tables"] | "pieces" >> beam.FlatMap(pieces, layout),
            tables.pipeline | "parts" >> beam.Create([(part, Piece()) for part in layout.wanted], reshuffle=False),
        ]
        if rejected is not None:
            given_pieces.append(whole["rejections"] | "rejected pieces" >> beam.ParDo(_Reject(layout)))
        parts = (
            given_pieces
            | "all pieces" >> beam.Flatten()
            | "by part" >> beam.GroupByKey()
            | "assemble" >> beam.ParDo(_Assemble(layout)).with_outputs(_FACTS, main="parts")
        )
        facts = [parts[_FACTS]]
        if layout.keyed:
            facts.append(
                whole["tables"]
                | "places" >> beam.FlatMap(_places)
                | "by group" >> beam.GroupByKey()
                | "straddling" >> beam.FlatMap(_straddling)
            )
        plan = (
            facts
            | "all facts" >> beam.Flatten()
            | "sum up" >> beam.CombineGlobally(_sum_of_facts)
            | "begin" >> beam.Map(self._begin)
        )
        written = beam.pvalue.AsSingleton(plan)
        return (
            parts.parts
            | "commit" >> beam.ParDo(_Commit(self._url, max_attempts=self._max_attempts), written)
            | "count" >> beam.CombineGlobally(beam.combiners.CountCombineFn())
            | "finalize" >> beam.Map(_finalized, written, url=self._url, max_reject_rate=self._max_reject_rate)
        )

    def _begun(self) -> Layout:
        """With "spec" the dataset is begun now, and only what is missing of it is asked for."""
        layout = self._layout
        if self._by_rows:
            return layout
        dataset = shards.create_dataset(self._url, layout.spec, overwrite=self._overwrite)
        todo = frozenset(shards.pending_parts(dataset).todo)
        return Layout(spec=layout.spec, keyed=layout.keyed, schema=layout.schema, todo=todo)

    def _begin(self, facts: Facts) -> Plan:
        """In a worker, once everything was looked at: what is to be written; the dataset is begun. May be repeated."""
        plan = planned(facts, self._layout, digest=self._by_rows)
        shards.create_dataset(self._url, plan.spec, overwrite=self._overwrite)
        return plan


class _Reject(beam.DoFn):
    """Rejection -> (part, piece), of the parts that are wanted."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def process(self, rejection: Any) -> Iterator[tuple[int, Piece]]:
        part, piece = rejected_piece(rejection, self._layout)
        if self._layout.wants(part):
            yield part, piece


class _Assemble(beam.DoFn):
    """(part, its pieces) -> the part, and its facts."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def process(self, element: tuple[int, Iterable[Piece]]) -> Iterator[Any]:
        part, given = element
        made, facts = assembled(part, given, self._layout)
        yield made
        yield beam.pvalue.TaggedOutput(_FACTS, facts)


class _HandedParts(PartWork):
    """The loop's work where the parts come along the graph: they are handed in, and wait here until they are done."""

    def __init__(self, plan: Plan, url: str) -> None:
        self._plan = plan
        self._waiting: dict[int, Assembled] = {}
        self._refused: dict[int, Exception] = {}
        self._url = url
        self._rollouts: CompleteDataset | None = None

    def setup(self) -> None:
        """The rollouts that a signal is of."""
        spec = self._plan.spec
        if spec.stage == "score":
            self._rollouts = reopen(shards.resolve_folder(self._url, spec.inputs["rollouts"].folder), "rollouts", spec)

    def hand(self, made: Assembled) -> None:
        self._waiting[made.part] = made

    def start(self, part: int) -> Future[PartOutput]:
        """Its table, held against the rollouts' where it is a signal's."""
        future: Future[PartOutput] = Future()
        try:
            if part in self._refused:
                raise self._refused[part]
            made = self._waiting[part]
            table = table_of(made, self._plan)
            if self._rollouts is not None:
                needed = ["rollout_id", "token_ids", "loss_mask"]
                check_alignment(table, self._rollouts.read_part(part, needed), what=f"part {part}")
            future.set_result(PartOutput(table=table, rejected=made.rejected))
        except Exception as error:  # noqa: BLE001 - the loop's to judge
            if isinstance(error, PassError):  # the same rows are refused the next time too
                self._refused[part] = error
            future.set_exception(error)
        return future

    def forget(self, part: int) -> None:
        """Keep nothing of a part that is done."""
        if part not in self._refused:
            self._waiting.pop(part, None)


class _Commit(beam.DoFn):
    """Commits parts, one after another; a part with an earlier attempt on record comes last in its bundle."""

    def __init__(self, url: str, *, max_attempts: int) -> None:
        self._url = url
        self._max_attempts = max_attempts
        self._loop: PartLoop | None = None
        self._under_way: tuple[Dataset, _HandedParts, PartLoop] | None = None

    def start_bundle(self) -> None:
        """A new bundle has nothing in flight; what one that failed left there is not to blame."""
        if self._loop is not None:
            self._loop.abandon()
        self._loop = self._under_way = None

    def process(self, made: Assembled, plan: Plan) -> Iterator[int]:
        """Offer one part to the loop."""
        if self._under_way is None:
            dataset, work = _opened(self._url, plan), _HandedParts(plan, self._url)
            work.setup()
            self._loop = PartLoop(dataset=dataset, work=work, parts_in_flight=1, max_attempts=self._max_attempts)
            self._under_way = dataset, work, self._loop
        dataset, work, loop = self._under_way
        if shards.committed(dataset, made.part) is None:
            work.hand(made)
            loop.offer(made.part)
        yield 1

    def finish_bundle(self) -> None:
        """Complete what is in flight, then those that wait."""
        if self._loop is not None:
            self._loop.drain()

    def teardown(self) -> None:
        """Also called when the job stops midway: a part in flight is not to blame."""
        if self._loop is not None:
            self._loop.abandon()


def _opened(url: str, plan: Plan) -> Dataset:
    """The dataset that was begun. Raises FingerprintMismatchError where the folder holds another by now."""
    dataset = shards.load_dataset(url)
    wanted = replace(plan.spec, format_version=dataset.spec.format_version)  # a dataset keeps the one it was begun in
    if dataset.fingerprint != wanted.fingerprint:
        raise FingerprintMismatchError(
            f"{url} holds fingerprint {dataset.fp8} now, and this job writes {wanted.fingerprint[:8]}: it was "
            "overwritten meanwhile. Nothing more is written; run again into another folder, or once the other job is "
            "done"
        )
    return dataset


def _finalized(_parts: int, plan: Plan, *, url: str, max_reject_rate: float) -> str:
    """Complete the dataset. Raises NotWritten: in a pipeline of the user's nobody else would say so."""
    try:
        shards.finalize(_opened(url, plan), max_reject_rate=max_reject_rate)
    except NotFinalized as error:
        raise NotWritten(str(error)) from error
    return url


def _sum_of_facts(facts: Iterable[Facts]) -> Facts:
    return sum(facts, Facts())


def _places(element: Any) -> Iterator[tuple[str, int]]:
    """(group, part) of the groups of a pair; what is no such pair is told of elsewhere."""
    try:
        part, table = element
        keys = group_keys(as_table(table))
        for group in keys.unique().to_pylist():
            if group is not None:
                yield str(group), int(part)
    except (PassError, TypeError, ValueError, KeyError, pa.ArrowException):
        return


def _straddling(element: tuple[str, Iterable[int]]) -> Sequence[Facts]:
    fault = straddling(*element)
    return [] if fault is None else [fault]
