"""`ShapeGroups`: rollouts of a PCollection become tables with chunks, credits and advantages, group by group."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import ShapingConfig, Statistics, shape
from pass_ops.errors import OptionError, PassError
from pass_ops.reading.groups import group_bounds
from pass_ops.shards import Rejection
from pass_ops.shards.schemas import schema_for
from pipelines.beam.tables import (
    BadTable,
    as_row,
    as_table,
    fitted,
    homeless,
    packed,
    table_of_rows,
    unpacked,
    with_groups,
)
from pipelines.runners.quiet import beam

Elements = Literal["rows", "tables"]
BadGroups = Literal["reject", "raise"]
_REJECTED = "rejected"
_LONGEST_DETAIL = 1000
_ROWS, _TABLE, _FAULT = "row", "table", "fault"


class BadGroup(PassError, ValueError):
    """A group cannot be shaped; the message names it, and why."""


class ShapedGroups(NamedTuple):
    """shaped: pa.Table, the input's columns and those of `pass_ops.shape`. rejected: pass_ops.shards.Rejection."""

    shaped: Any
    rejected: Any


class ShapeGroups(beam.PTransform):
    """Rollouts -> (shaped, rejected): what `pass_ops.shape` makes of each group, to the bit.

    Args:
        config: the estimator and its options; by default PASS with the paper's.
        elements: "rows": an element is a rollout (a dict, a `beam.Row`, a named tuple), or a table or record batch of
            any rollouts; their group is the column group_id, or the key where an element is a pair (group, rollouts).
            They are brought together by a GroupByKey, put in the order of sample_index (without it of rollout_id,
            without that of their content), and every output table is one group, with the contract's types in the
            contract's columns. "tables": an element is a table of whole groups, whose rows are adjacent; it is shaped
            where it lies, only names of groups are shuffled, and it comes out as one table.
        bad_groups: "reject": a group that cannot be shaped becomes a `Rejection` (prompt_id: the group; reason; detail)
            and the others go on. "raise": the first one fails the job with BadGroup.
        statistics: of the whole data set, where a pool is "dataset" (`pass_ops.pool_statistics`).

    Reasons: no_group, group_under_two_keys, group_in_two_tables, empty_group, duplicate_rollout, no_sample_index,
    columns_differ, schema_differs, not_a_table, and the errors of `pass_ops.shape` in small letters
    (missing_column, length_mismatch, non_finite, ...).

    Raises:
        OptionError: an argument is not one of those above, or a pool is "dataset" and there are no statistics.
    """

    def __init__(
        self,
        config: ShapingConfig | None = None,
        *,
        elements: Elements = "rows",
        bad_groups: BadGroups = "reject",
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (("elements", elements, Elements), ("bad_groups", bad_groups, BadGroups)):
            if value not in get_args(choices):
                raise OptionError(f"{name}: expected one of {', '.join(get_args(choices))}, got {value!r}")
        config = config or ShapingConfig()
        if config.dataset_pools and statistics is None:
            raise OptionError(
                "statistics: a pool is the whole data set, and here groups are shaped one by one; give "
                "pass_ops.pool_statistics of the data set, or another pool"
            )
        self._shaper = _Shaper(config, statistics, raising=bad_groups == "raise")
        self._elements = elements

    def expand(self, rollouts: Any) -> ShapedGroups:
        """Rows: key, group, shape. Tables: count the groups' names, then shape."""
        if self._elements == "rows":
            keyed = rollouts | "key" >> beam.ParDo(_Key(self._shaper)).with_outputs(_REJECTED, main="keyed")
            shaped = (
                keyed.keyed
                | "group" >> beam.GroupByKey()
                | "shape" >> beam.ParDo(_ShapeGroup(self._shaper)).with_outputs(_REJECTED, main="shaped")
            )
            rejected = (keyed[_REJECTED], shaped[_REJECTED]) | "rejected" >> beam.Flatten()
            return ShapedGroups(shaped.shaped, rejected)
        twice = (
            rollouts
            | "name groups" >> beam.FlatMap(_named_once)
            | "count" >> beam.CombinePerKey(sum)
            | "twice" >> beam.Filter(_is_several)
        )
        several = beam.pvalue.AsDict(twice)
        shaped = rollouts | "shape" >> beam.ParDo(_ShapeTable(self._shaper), several).with_outputs(
            _REJECTED, main="shaped"
        )
        return ShapedGroups(shaped.shaped, shaped[_REJECTED])


class _Shaper:
    """`shape` for one worker, and what becomes of a group that it refuses."""

    def __init__(self, config: ShapingConfig, statistics: Statistics | None, *, raising: bool) -> None:
        self._config = config
        self._statistics = statistics
        self._raising = raising
        transforms = [one.path for stream in (config.streams or {}).values() for one in stream.transforms]
        self._runs_own_code = ":" in config.estimator or any(path is not None for path in transforms)

    def __call__(self, table: pa.Table) -> pa.Table:
        return shape(table, self._config, threads=1, statistics=self._statistics)  # Beam's workers are the threads

    def refuse(self, group: str, reason: str, detail: str, *, sample_index: int | None = None) -> Any:
        """The tagged rejection, of a group or of one rollout. Raises BadGroup where that was asked for."""
        if self._raising:
            raise BadGroup(f"group {group!r} cannot be shaped: {reason}: {detail}")
        rejection = Rejection(
            prompt_id=group, sample_index=sample_index, reason=reason, detail=detail[:_LONGEST_DETAIL]
        )
        return beam.pvalue.TaggedOutput(_REJECTED, rejection)

    def refuse_homeless(self, rows: pa.Table) -> Iterator[Any]:
        """The tagged rejections of rows that have no group."""
        for index, detail in homeless(rows):
            yield self.refuse("", "no_group", detail, sample_index=index)

    def refuse_error(self, group: str, error: Exception) -> Any:
        """The same for what shaping raised: what is wrong with the rows, or any fault of an estimator of one's own.

        Anything else is raised: a worker that lacks a library, say, would reject whatever it meets.
        """
        of_the_rows = isinstance(error, PassError | pa.ArrowException)
        if isinstance(error, MemoryError | OSError | ImportError) or not (of_the_rows or self._runs_own_code):
            raise error
        if self._raising and isinstance(error, PassError):
            raise BadGroup(f"group {group!r} cannot be shaped: {error}") from error
        if self._raising:
            raise error
        return self.refuse(group, *reason_of(error))


def reason_of(error: Exception) -> tuple[str, str]:
    """A stable name for an error, and its words.

    >>> from pass_ops.errors import LengthMismatchError
    >>> reason_of(LengthMismatchError("rollout 'a/0': 3 tokens, 2 scores"))
    ('length_mismatch', "rollout 'a/0': 3 tokens, 2 scores")
    """
    if isinstance(error, BadTable):
        return error.reason, error.detail
    words = re.findall("[A-Z][a-z]*", type(error).__name__.removesuffix("Error")) or ["error"]
    return "_".join(word.lower() for word in words), str(error)


class _Key(beam.DoFn):
    """Element -> (group, (kind, payload)); what has no group is rejected."""

    def __init__(self, shaper: _Shaper) -> None:
        self._shaper = shaper

    def process(self, element: Any) -> Iterator[Any]:
        key, rollouts = element if _is_pair(element) else (None, element)
        key = None if key is None else str(key)
        row = as_row(rollouts)
        if row is not None:
            yield from self._row(key, row)
            return
        try:
            yield from self._table(key, as_table(rollouts))
        except PassError as error:
            yield self._shaper.refuse_error(key or "", error)

    def _row(self, key: str | None, row: Mapping[str, Any]) -> Iterator[Any]:
        found = row.get("group_id")
        group = key if found is None else str(found)
        if group is None:
            for name in ("rollout_id", "sample_index"):
                row = {name: None, **row}
            yield from self._shaper.refuse_homeless(pa.table({n: [row[n]] for n in ("rollout_id", "sample_index")}))
        elif key not in (None, group):
            yield from _straddling(str(key), group)
        else:
            yield group, (_ROWS, {**row, "group_id": group})

    def _table(self, key: str | None, table: pa.Table) -> Iterator[Any]:
        if "group_id" not in table.column_names:
            if key is None:
                yield from self._shaper.refuse_homeless(table)
                return
            table = table.append_column("group_id", pa.repeat(pa.scalar(key), len(table)))
        if key is not None and len(table) == 0:
            yield key, (_TABLE, packed(table))
        table = fitted(table, schema_for("shape", table.column_names))
        for group, rows in with_groups(table, table["group_id"]):
            if group is None and key is None:
                yield from self._shaper.refuse_homeless(rows)
            elif group is None:
                place = rows.column_names.index("group_id")
                named = rows.set_column(place, "group_id", pa.repeat(pa.scalar(key), len(rows)))
                yield key, (_TABLE, packed(named))
            elif key not in (None, group):
                yield from _straddling(str(key), group)
            else:
                yield group, (_TABLE, packed(rows))


def _straddling(key: str, group: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Neither group is whole then: a fault for both."""
    detail = f"rollouts of group {group!r} came under the key {key!r}; key every rollout by its own group"
    for either in (key, group):
        yield either, (_FAULT, detail)


class _ShapeGroup(beam.DoFn):
    """(group, what `_Key` gave) -> the group's shaped table."""

    def __init__(self, shaper: _Shaper) -> None:
        self._shaper = shaper

    def process(self, element: tuple[str, Iterable[tuple[str, Any]]]) -> Iterator[Any]:
        group, given = element
        found = list(given)
        faults = sorted(payload for kind, payload in found if kind == _FAULT)
        try:
            if faults:
                raise BadTable("group_under_two_keys", faults[0])
            shaped = self._shaper(_whole_group(found))
        except Exception as error:  # noqa: BLE001 - an estimator of one's own may raise anything; no group costs another
            yield self._shaper.refuse_error(group, error)
        else:
            yield shaped


def _whole_group(given: list[tuple[str, Any]]) -> pa.Table:
    """The rows of one group in one table, in an order that does not depend on how they came. Raises BadTable."""
    rows = [payload for kind, payload in given if kind == _ROWS]
    pieces = [unpacked(payload) for kind, payload in given if kind == _TABLE]
    if rows:
        pieces.append(table_of_rows(rows))
    pieces = [fitted(piece, schema_for("shape", piece.column_names)) for piece in pieces if len(piece)]
    if not pieces:
        raise BadTable("empty_group", "the group has no rollouts")
    pieces = [piece.select(sorted(piece.column_names)) if len(pieces) > 1 else piece for piece in pieces]
    try:
        table = pa.concat_tables(pieces, promote_options="default")
    except pa.ArrowException as error:
        raise BadTable("schema_differs", f"the tables of the group do not go together: {error}") from error
    if any(set(piece.column_names) != set(table.column_names) for piece in pieces):
        differing = sorted({name for piece in pieces for name in set(table.column_names) ^ set(piece.column_names)})
        detail = f"some of the group's tables have {', '.join(differing)} and others have not; give all the same"
        raise BadTable("columns_differ", detail)
    return _ordered(table).combine_chunks()


def _ordered(table: pa.Table) -> pa.Table:
    """By sample_index, else by rollout_id, else by content. Raises BadTable where two rows are one rollout."""
    for name in ("sample_index", "rollout_id"):
        if name not in table.column_names:
            continue
        if table[name].null_count:
            raise BadTable(f"no_{name}", f"{table[name].null_count} rows of the group have a null {name}; number them")
        if len(table[name].unique()) != len(table):
            counts = pc.value_counts(table[name]).to_pylist()
            twice = next(one["values"] for one in counts if one["counts"] > 1)
            raise BadTable("duplicate_rollout", f"{name} {twice!r} is there twice; give each rollout once")
        return table.take(pc.sort_indices(table[name]))
    contents = [repr(sorted(row.items())) for row in table.to_pylist()]
    return table.take(pa.array(sorted(range(len(table)), key=contents.__getitem__), pa.int64()))


class _ShapeTable(beam.DoFn):
    """A table of whole groups -> the same, shaped, without its bad groups."""

    def __init__(self, shaper: _Shaper) -> None:
        self._shaper = shaper

    def process(self, element: Any, several: Mapping[str, int]) -> Iterator[Any]:
        try:
            table = as_table(element)
        except BadTable as error:
            yield self._shaper.refuse_error("", error)
            return
        if any(name in several for name in _group_names(table)):
            yield from self._each(table, several)
            return
        try:
            yield self._shaper(table)
        except Exception as error:  # noqa: BLE001 - see _ShapeGroup
            if len(table) == 0 or "group_id" not in table.column_names:
                yield self._shaper.refuse_error("", error)
            else:
                yield from self._each(table, several)

    def _each(self, table: pa.Table, several: Mapping[str, int]) -> Iterator[Any]:
        """Group by group: the good ones in one table, the bad ones rejected."""
        good = []
        keys = table["group_id"]
        runs = Counter(keys.take(pa.array(group_bounds(keys)[:-1])).to_pylist())
        for group, rows in with_groups(table, keys):
            if group is None:
                yield from self._shaper.refuse_homeless(rows)
                continue
            name = str(group)
            try:
                if name in several:
                    detail = (
                        f"{several[name]} tables hold rollouts of it; give tables of whole groups, or elements='rows'"
                    )
                    raise BadTable("group_in_two_tables", detail)
                if runs[group] > 1:
                    raise BadTable("group_order", "its rows are not adjacent in their table; sort it by group_id")
                good.append(self._shaper(rows))
            except Exception as error:  # noqa: BLE001 - see _ShapeGroup
                yield self._shaper.refuse_error(name, error)
        if good:
            yield pa.concat_tables(good).combine_chunks()


def _group_names(table: pa.Table) -> list[str]:
    """The groups that a table names, each once."""
    if "group_id" not in table.column_names:
        return []
    return list(dict.fromkeys(str(name) for name in table["group_id"].unique().to_pylist() if name is not None))


def _named_once(element: Any) -> Iterator[tuple[str, int]]:
    """(group, 1) for each group of a table; what is no table is told of where it is shaped."""
    try:
        names = _group_names(as_table(element))
    except PassError:
        return
    for name in names:
        yield name, 1


def _is_several(counted: tuple[str, int]) -> bool:
    return counted[1] > 1


def _is_pair(element: Any) -> bool:
    return isinstance(element, tuple) and len(element) == 2 and not hasattr(element, "_fields")
