"""Makes a case on which `shape` and the oracle of streams disagree small, as Hypothesis would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from oracle_streams import Options, Stream, Table

Case = tuple[Table, Options]


def smallest(table: Table, o: Options, fails: Callable[[Table, Options], bool]) -> Case:
    """The case after every single simplification that leaves it failing."""
    case = (table, o)
    while True:
        simpler = next((other for other in simplifications(*case) if fails(*other)), None)
        if simpler is None:
            return case
        case = simpler


def simplifications(table: Table, o: Options) -> Iterator[Case]:
    for g, group in enumerate(table.groups):
        if len(table.groups) > 1:
            yield replace(table, groups=[other for other in table.groups if other is not group]), o
        for r in group if len(group) > 1 else ():
            fewer = [other for other in group if other is not r]
            yield replace(table, groups=[*table.groups[:g], fewer, *table.groups[g + 1 :]]), o
    for name in o.streams:
        if len(o.streams) > 1:
            yield table, without(name, o)
        for stream in simpler_streams(o.streams[name]):
            yield table, replace(o, streams={**o.streams, name: stream})
    usual = Options({}, divide=False)
    for name in ("fused", "chunk_by", "divide", "chunk", "eta", "ddof", "eps", "right_above"):
        if getattr(o, name) != getattr(usual, name):
            yield table, replace(o, **{name: getattr(usual, name)})


def without(name: str, o: Options) -> Options:
    streams = {
        other: replace(s, otherwise=None) if s.otherwise == name else s
        for other, s in o.streams.items()
        if other != name
    }
    return replace(o, streams=streams, chunk_by=tuple(other for other in o.chunk_by if other != name))


def simpler_streams(s: Stream) -> Iterator[Stream]:
    for name in ("transform", "after"):
        chain = getattr(s, name)
        for i in range(len(chain)):
            yield replace(s, **{name: chain[:i] + chain[i + 1 :]})
    if s.otherwise:
        yield replace(s, otherwise=None)
    elif s.gate != "always":
        yield replace(s, gate="always")
    if s.pool != "group":
        yield replace(s, pool="group", key=None)
    for name, usual in (("operator", "none"), ("weight", 1.0)):
        if getattr(s, name) != usual:
            yield replace(s, **{name: usual})
