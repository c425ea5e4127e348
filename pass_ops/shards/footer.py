"""Footers of Parquet files: Thrift's compact protocol, read into plain values and written back.

pyarrow reads footers but cannot write one for pages that are there already. A struct is a dict, field id -> (wire type,
value), in the order of the file; a list is a `Sequence` of its elements' wire type and their values. Nothing is
interpreted, so what a newer version adds is kept. Thrift's specification: doc/specs/thrift-compact-protocol.md in
apache/thrift; Parquet's structs: parquet.thrift in apache/parquet-format.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Struct = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
MAGIC = b"PAR1"


class Elements(NamedTuple):
    """A list: the wire type of its elements, and the elements."""

    kind: int
    values: list[Any]


def read_footer(content: memoryview) -> Struct:
    """The FileMetaData of a Parquet file."""
    size = int.from_bytes(content[-8:-4], "little")
    return _read_struct(bytes(content[-8 - size : -8]), 0)[0]


def write_footer(metadata: Struct) -> bytes:
    """The end of a Parquet file: the FileMetaData, its length, and the magic word."""
    out = bytearray()
    _write_struct(out, metadata)
    return bytes(out) + len(out).to_bytes(4, "little") + MAGIC


def _read_struct(data: bytes, at: int) -> tuple[Struct, int]:
    fields: Struct = {}
    number = 0
    while head := data[at]:
        at += 1
        kind, step = head & 0x0F, head >> 4
        if step:
            number += step
        else:
            number, at = _read_integer(data, at)
        value, at = _read_value(kind, data, at)
        fields[number] = (kind, value)
    return fields, at + 1


def _read_value(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _read_integer(data, at)
    if kind == BINARY:
        size, at = _read_varint(data, at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return _read_struct(data, at)
    if kind == LIST:
        return _read_list(data, at)
    if kind in (TRUE, FALSE):  # of a field: the wire type is the value
        return kind, at
    width = {BYTE: 1, DOUBLE: 8}[kind]
    return data[at : at + width], at + width


def _read_list(data: bytes, at: int) -> tuple[Elements, int]:
    head = data[at]
    size, at = (head >> 4, at + 1) if head < 0xF0 else _read_varint(data, at + 1)
    kind, values = head & 0x0F, []
    for _ in range(size):
        value, at = _read_value(BYTE if kind in (TRUE, FALSE) else kind, data, at)
        values.append(value)
    return Elements(kind, values), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | byte << shift, at + 1


def _read_integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _write_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for number, (kind, value) in fields.items():
        step, before = number - before, number
        if 0 < step < 16:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _write_integer(out, number)
        _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _write_integer(out, value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind == LIST:
        _write_list(out, value)
    elif kind not in (TRUE, FALSE):
        out += value


def _write_list(out: bytearray, elements: Elements) -> None:
    size = len(elements.values)
    if size < 15:
        out.append(size << 4 | elements.kind)
    else:
        out.append(0xF0 | elements.kind)
        _write_varint(out, size)
    for value in elements.values:
        _write_value(out, BYTE if elements.kind in (TRUE, FALSE) else elements.kind, value)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
