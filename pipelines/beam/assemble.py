"""From tables in any order to the parts of a dataset, the same ones each time; and what is wrong with the tables.

No Beam in here. A table is cut by the groups' parts (`pieces`); what comes together of a part becomes one table
(`assembled`); and over all parts it is summed up what they have in common (`Facts`), before anything is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import PartError, PassError
from pass_ops.shards import DatasetSpec, Rejection
from pass_ops.shards.checks import describe, part_problems
from pass_ops.shards.schemas import conform, schema_for
from pass_ops.shards.tables import group_keys
from pipelines.beam.tables import BadTable, as_table, by_part, fitted, homeless, packed, part_of_group, unpacked

_SHOWN = 10
_KEY = {"prompts": "prompt_id", "generate": "group_id", "score": "rollout_id", "shape": "group_id"}
_ORDER = {"prompts": ("prompt_id",), "generate": ("group_id", "sample_index"), "shape": ("group_id", "sample_index")}
_MODULUS = 1 << 256


class TablesRefused(PassError, ValueError):
    """The tables of a PCollection are no dataset; the message lists what is wrong. Nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one element gives to one part: rows, as `packed` packs them, or a rejection, or a fault of the element."""

    table: bytes | None = None
    rejection: Rejection | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A part, ready to be committed. table: None where no rows came and nothing here says which columns it has."""

    part: int
    table: bytes | None
    rejected: tuple[Rejection, ...] = ()
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the parts have in common. A sum of facts does not depend on their order.

    schemas: of the tables. rows: sum of the sha256 of the parts, modulo 2**256. faults: the first ones, in order.
    """

    schemas: frozenset[bytes] = frozenset()
    rows: int = 0
    faults: tuple[str, ...] = ()
    empty: tuple[int, ...] = ()

    def __add__(self, other: Facts) -> Facts:
        return Facts(
            schemas=self.schemas | other.schemas,
            rows=(self.rows + other.rows) % _MODULUS,
            faults=tuple(sorted({*self.faults, *other.faults}))[:_SHOWN],
            empty=tuple(sorted({*self.empty, *other.empty}))[:_SHOWN],
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is written: the dataset, and the columns of parts without rows."""

    spec: DatasetSpec
    schema: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How tables become parts. todo: the parts that are wanted; None: all."""

    spec: DatasetSpec
    keyed: bool = False
    schema: bytes | None = None
    todo: frozenset[int] | None = field(default=None, repr=False)

    @property
    def stage(self) -> str:
        return self.spec.stage

    @property
    def wanted(self) -> Sequence[int]:
        """The parts to write, in order."""
        return range(self.spec.parts) if self.todo is None else sorted(self.todo)

    def wants(self, part: int) -> bool:
        return self.todo is None or part in self.todo


def pieces(element: Any, layout: Layout) -> Iterator[tuple[int, Piece]]:
    """(part, piece) for each part that an element gives something to. A fault goes to some part of those wanted."""
    try:
        part, table = _placed(element, layout)
        table, without = _with_keys(as_table(table), layout)
        for index, detail in homeless(without):
            rejection = Rejection(prompt_id="", sample_index=index, reason="no_group", detail=detail)
            place, piece = rejected_piece(rejection, layout)
            if layout.wants(place):
                yield place, piece
        table = _conformed(table, layout)
        keys = group_keys(table)
        split = by_part(table, keys, parts=layout.spec.parts) if part is None else [(part, table)]
    except PassError as error:
        for somewhere in layout.wanted[:1]:
            yield somewhere, Piece(fault=str(error))
        return
    cut = list(split) or [(part_of_group("", parts=layout.spec.parts), table)]  # no rows, but a schema
    for place, rows in cut:
        if layout.wants(place):
            yield place, Piece(table=packed(rows))


def rejected_piece(rejection: Any, layout: Layout) -> tuple[int, Piece]:
    """Where a rejection is recorded: with its group. What is none is a fault."""
    if not isinstance(rejection, Rejection):
        fault = f"a {type(rejection).__name__} is among the rejections; give pass_ops.shards.Rejection"
        return next(iter(layout.wanted), 0), Piece(fault=fault)
    try:
        json.dumps(rejection.payload)
    except (TypeError, ValueError) as error:
        fault = f"the payload of a rejection of {rejection.prompt_id!r} is no JSON ({error}); give plain values"
        return next(iter(layout.wanted), 0), Piece(fault=fault)
    return part_of_group(rejection.prompt_id, parts=layout.spec.parts), Piece(rejection=rejection)


def assembled(part: int, given: Iterable[Piece], layout: Layout) -> tuple[Assembled, Facts]:
    """One part from what came for it, whatever the order it came in."""
    found = list(given)
    faults = [piece.fault for piece in found if piece.fault is not None]
    rejected = tuple(sorted((one.rejection for one in found if one.rejection is not None), key=_rejection_order))
    packs = sorted(piece.table for piece in found if piece.table is not None)
    tables = [unpacked(pack) for pack in packs]
    schemas = frozenset(_schema_bytes(table.schema) for table in tables)
    if layout.keyed and len(tables) > 1:
        faults.append(f"{len(tables)} tables came for part {part}; give each part one table")
    with_rows = [table for table in tables if len(table)]
    table: pa.Table | None = None
    if len(schemas) == 1 and not faults:
        table = pa.concat_tables(with_rows or tables[:1])
        # Taken in any case: of a slice, Arrow packs bits beside its own, and the digest would depend on them.
        keys = [(name, "ascending") for name in _ORDER.get(layout.stage, ())]
        order = np.arange(len(table)) if layout.keyed else pc.sort_indices(table, keys)
        table = table.take(order).combine_chunks()
        first = next(iter(part_problems(table, layout.stage)), None)
        faults += [f"part {part}: {describe(first, table)} [{first.code}]"] if first is not None else []
    pack = None if table is None else packed(table)
    made = Assembled(part=part, table=pack, rejected=rejected, missing=layout.keyed and not tables)
    facts = Facts(
        schemas=schemas,
        rows=_digest(part, pack if with_rows else None, rejected),
        faults=tuple(sorted(faults))[:_SHOWN],
        empty=() if tables else (part,),
    )
    return made, facts


def straddling(group: str, parts: Iterable[int]) -> Facts | None:
    """A fault if a group came for several parts."""
    several = sorted(set(parts))
    if len(several) < 2:
        return None
    shown = ", ".join(map(str, several[:_SHOWN]))
    return Facts(faults=(f"group {group!r} came for parts {shown}; a group belongs to one part",))


def planned(facts: Facts, layout: Layout, *, digest: bool) -> Plan:
    """The dataset to write. Raises TablesRefused with everything that is wrong."""
    faults = list(facts.faults)
    schemas = set(facts.schemas) | ({layout.schema} if layout.schema is not None else set())
    if len(schemas) > 1:
        faults.append(_differing([unpacked(schema).schema for schema in sorted(schemas)]))
    if not schemas and not faults and facts.empty and not layout.keyed:
        faults.append(
            "the PCollection is empty, so nothing says which columns the dataset has; give schema, or look for what "
            "dropped the rows"
        )
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
        raise TablesRefused(f"The tables cannot become a dataset of stage {layout.stage}. Nothing was written.{shown}")
    spec = layout.spec
    if digest:
        rows = hashlib.sha256(f"{facts.rows:064x}\n".encode() + b"".join(schemas)).hexdigest()
        spec = replace(spec, carried={**spec.carried, "rows_sha256": rows})
    return Plan(spec=spec, schema=next(iter(schemas), None))


def table_of(made: Assembled, plan: Plan) -> pa.Table:
    """A part's table; one without rows has the columns of the others. Raises PartError for one that never came."""
    if made.missing:
        raise PartError(f"no table came for part {made.part}; give one, of no rows if it has none")
    if made.table is not None:
        return unpacked(made.table)
    assert plan.schema is not None  # `planned` refuses otherwise
    return unpacked(plan.schema)


def schema_of(schema: pa.Schema, layout: Layout) -> bytes:
    """A schema that the user gives, as the tables' are held against it. Raises PartError for one of another stage."""
    return _schema_bytes(_conformed(schema.empty_table(), layout).schema)


def _placed(element: Any, layout: Layout) -> tuple[int | None, Any]:
    if not layout.keyed:
        if isinstance(element, tuple) and len(element) == 2:
            raise BadTable("not_a_table", "a pair came; write pairs (part number, table) with keyed=True")
        return None, element
    if not (isinstance(element, tuple) and len(element) == 2 and isinstance(element[0], int | np.integer)):
        raise BadTable("not_keyed", f"expected a pair (part number, table), got {type(element).__name__}")
    part = int(element[0])
    if not 0 <= part < layout.spec.parts:
        raise BadTable(
            "no_such_part", f"a table came for part {part}; the dataset has parts 0 to {layout.spec.parts - 1}"
        )
    return part, element[1]


def _with_keys(table: pa.Table, layout: Layout) -> tuple[pa.Table, pa.Table]:
    """The rows that have a group, and those that have none."""
    name = _KEY[layout.stage]
    if name not in table.column_names or not table[name].null_count:  # `conform` says which columns are missing
        return table, table.slice(0, 0)
    return table.filter(pc.is_valid(table[name])), table.filter(pc.is_null(table[name]))


def _conformed(table: pa.Table, layout: Layout) -> pa.Table:
    """The contract's columns in its order, then others by name, with its types."""
    carried = layout.spec.carried
    if layout.stage == "shape":
        for name, kind in (("policy_digest", pa.string()), ("round", pa.int32())):
            if name not in table.column_names and carried.get(name) is not None:
                table = table.append_column(name, pa.repeat(pa.scalar(carried[name], kind), len(table)))
    schema = schema_for(layout.stage, table.column_names)
    missing = [name for name in schema.names if name not in table.column_names]
    if not missing:
        known = list(dict.fromkeys(schema.names))
        table = table.select([*known, *sorted(set(table.column_names) - set(known))])
    return conform(fitted(table, schema), layout.stage)


def _schema_bytes(schema: pa.Schema) -> bytes:
    return packed(schema.remove_metadata().empty_table())


def _differing(schemas: Sequence[pa.Schema]) -> str:
    """Which columns are not the same in all schemas."""
    names = dict.fromkeys(name for schema in schemas for name in schema.names)
    told = []
    for name in names:
        kinds = dict.fromkeys(str(schema.field(name).type) if name in schema.names else "absent" for schema in schemas)
        if len(kinds) > 1:
            told.append(f"{name} is {' or '.join(kinds)}")
    return f"the tables have different columns: {'; '.join(told)}. Give all of them the same"


def _digest(part: int, pack: bytes | None, rejected: Sequence[Rejection]) -> int:
    """Of what a part holds; 0 for nothing, so that a part without rows changes no sum."""
    if pack is None and not rejected:
        return 0
    digest = hashlib.sha256(f"{part} {json.dumps([asdict(one) for one in rejected], sort_keys=True)}\n".encode())
    digest.update(pack or b"")
    return int.from_bytes(digest.digest(), "big")


def _rejection_order(one: Rejection) -> tuple[str, int, str, str]:
    return one.prompt_id, -1 if one.sample_index is None else one.sample_index, one.reason, one.detail
