"""The arithmetic of one rollout under streams, in plain Python from docs/spec/streams.md by its sections.

It shares no code with `pass_ops` but the options, the table of columns (`plan`) and a user's own functions, which it
calls: what it finds is compared with what is stored. Each number carries its rounding, as in `arithmetic`.

Indices: rollout i of a group (its used ones), token t, element e of a stream.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from pass_ops import ShapingConfig, Stream
from pass_ops.reading.stream_sources import Plan
from pipelines.inspect.explain.measured import Measure, measure, unmeasured
from pipelines.inspect.explain.pools import Number
from pipelines.inspect.explain.stream_result import Share, StreamArithmetic, StreamChunk, StreamFacts
from pipelines.inspect.explain.transforms import UNIT, About, shown, sum_of, transformed

Row = Mapping[str, Any]
ZERO = Number(0.0)


@dataclass(frozen=True, kw_only=True)
class Element:
    """A live element of a stream in one rollout, and what has become of it so far.

    first and last: its first and last token that count; place: of the value in its list.
    """

    first: int
    last: int
    place: int
    raw: float
    x: Number = ZERO
    center: float | None = None
    scale: float | None = None
    standardized: Number = ZERO
    y: Number = ZERO


class StreamArithmetics:
    """The used rollouts of one group under streams: sections 2 to 8 of docs/spec/streams.md."""

    def __init__(
        self, rows: Sequence[Row], config: ShapingConfig, planned: Plan, recorded: Mapping[str, Mapping[str, float]]
    ) -> None:
        self.rows, self.config, self.plan, self.recorded = rows, config, planned, recorded
        self.streams: dict[str, Stream] = {name: (config.streams or {})[name] for name in planned.sources}
        self.counting = [[t for t, counts in enumerate(row["loss_mask"]) if counts] for row in rows]
        self.measures: dict[tuple[str, object], Measure] = {}
        self.trace = cache(self._trace)
        self.x = {name: [self._elements(name, i) for i in range(len(rows))] for name in self.streams}
        self.y = {name: [self._measured(name, i) for i in range(len(rows))] for name in self.streams}

    # -- elements and transforms (2, 3)

    def _elements(self, name: str, i: int) -> list[Element]:
        """The live elements of a stream in rollout i, transformed."""
        source, row, counting = self.plan.sources[name], self.rows[i], self.counting[i]
        values = row[source.values]
        if source.level == "rollout":
            last = len(row["loss_mask"]) - 1
            found = [Element(first=0, last=last, place=0, raw=float(values))]
        elif source.level == "token":
            found = [Element(first=t, last=t, place=t, raw=float(values[t])) for t in counting]
        else:
            found = []
            for place, (start, end) in enumerate(pairwise([0, *row[str(source.ends)]])):
                tokens = [t for t in range(start, end) if row["loss_mask"][t]]
                if tokens:
                    found.append(Element(first=tokens[0], last=tokens[-1], place=place, raw=float(values[place])))
        xs = transformed([Number(one.raw) for one in found], self.streams[name].transform, self._about(name, i))
        return [replace(one, x=x) for one, x in zip(found, xs, strict=True)]

    def _about(self, name: str, i: int) -> About:
        return About(
            level=self.plan.sources[name].level,
            counting=len(self.counting[i]),
            mean_outcome=self.mean_outcome,
        )

    @cached_property
    def outcomes(self) -> list[float]:
        """The raw values that say who is right; none where nobody asks."""
        return [] if self.plan.right is None else [float(row[self.plan.right]) for row in self.rows]

    @cached_property
    def mean_outcome(self) -> float:
        """Their mean; 0 of none."""
        return math.fsum(self.outcomes) / len(self.outcomes) if self.outcomes else 0.0

    @cached_property
    def single_outcome(self) -> bool:
        """Whether they are all the same."""
        return len(set(self.outcomes)) == 1

    def right(self, i: int) -> bool:
        """Whether rollout i is."""
        return self.outcomes[i] > self.config.right_above

    # -- pools and operators (4)

    def _measured(self, name: str, i: int) -> list[Element]:
        """The elements standardized, and transformed once more."""
        found = []
        for one in self.x[name][i]:
            by = self._measure(name, i, one)
            found.append(replace(one, center=by.pool.center, scale=by.pool.scale, standardized=by.standardize(one.x)))
        after: tuple[Any, ...] = self.streams[name].after
        ys = transformed([one.standardized for one in found], after, self._about(name, i))
        return [replace(one, y=y) for one, y in zip(found, ys, strict=True)]

    def _measure(self, name: str, i: int, element: Element) -> Measure:
        """N(.; S) with the pool S that this element is measured against."""
        stream = self.streams[name]
        label = _key(self.rows[i], stream, element) if stream.pool == "state" else None
        known = (name, label)
        if known not in self.measures:
            joint = [other for other in self.streams if self.streams[other].pool == "joint"]
            self.measures[known] = measure(
                stream.operator,
                self._pool(name, label, joint),
                self.config,
                stream=", ".join(joint) if stream.pool == "joint" else name,
                pool=f"state {label!r}" if stream.pool == "state" else stream.pool,
                recorded=self.recorded[name] if stream.pool == "dataset" and stream.operator != "none" else None,
            )
        return self.measures[known]

    def _pool(self, name: str, label: object, joint: Sequence[str]) -> list[list[Number]]:
        """S, a list for each rollout; of the whole dataset none of it is here."""
        stream = self.streams[name]
        if stream.pool == "dataset":
            return []
        names = joint if stream.pool == "joint" else [name]
        found: list[list[Number]] = []
        for i, row in enumerate(self.rows):
            if stream.pool in ("right", "wrong") and self.right(i) != (stream.pool == "right"):
                found.append([])
                continue
            found.append(
                [
                    one.x
                    for other in names
                    for one in self.x[other][i]
                    if stream.pool != "state" or _key(row, stream, one) == label
                ]
            )
        return found

    # -- gates (5)

    def open(self, name: str, i: int) -> bool:
        """Whether every gate of a stream is open in rollout i."""
        return all(self._open(gate, i) for gate in self.streams[name].gates)

    def _open(self, gate: str, i: int) -> bool:
        if gate == "format":
            return bool(self.rows[i]["format_ok"])
        if gate in ("right", "wrong"):
            return self.right(i) == (gate == "right")
        if gate in ("single_outcome", "mixed"):
            return self.single_outcome == (gate == "single_outcome")
        return True

    def arrives(self, i: int) -> dict[str, float]:
        """W(i): the weight that arrives at each stream."""
        found: dict[str, list[float]] = {name: [] for name in self.streams}
        for name, stream in self.streams.items():
            at: str | None = name
            while at is not None and not self.open(at, i):
                at = self.streams[at].otherwise
            if at is not None:
                found[at].append(_weight(stream))
        return {name: math.fsum(weights) for name, weights in found.items()}

    # -- fusion (6)

    def shares(self, i: int, t: int, weights: Mapping[str, float]) -> list[Share]:
        """What each stream adds at token t."""
        found = []
        for name in self.streams:
            one = self.y[name][i][bisect_left(self._lasts[name][i], t)]
            found.append(
                Share(
                    stream=name,
                    raw=one.raw,
                    transformed=one.x,
                    center=one.center,
                    scale=one.scale,
                    standardized=one.standardized,
                    y=one.y,
                    weight=weights[name],
                    share=one.y.times(weights[name]),
                )
            )
        return found

    @cached_property
    def _lasts(self) -> dict[str, list[list[int]]]:
        """The last token of every element."""
        return {name: [[one.last for one in elements] for elements in rollouts] for name, rollouts in self.y.items()}

    @cached_property
    def fused(self) -> Measure | None:
        """The pool of the fused sum."""
        fused = self.config.fused
        if fused is None:
            return None
        whole = self.recorded[""] if fused.pool == "dataset" else None
        return measure(
            fused.operator,
            [] if whole is not None else [list(self._summed(i)) for i in range(len(self.rows))],
            self.config,
            stream="",
            pool=f"{fused.pool}, by {fused.per}",
            recorded=whole,
        )

    def _summed(self, i: int) -> Iterator[Number]:
        """Rollout i's values of S_A."""
        assert self.config.fused is not None
        weights = self.arrives(i)
        entering = self._entering()
        levels = {self.plan.sources[name].level for name in entering}
        if self.config.fused.per == "element" and levels == {"rollout"}:
            yield sum_of([self.y[name][i][0].y.times(weights[name]) for name in entering])
            return
        tokens = self.counting[i]
        if self.config.fused.per == "element" and "token" not in levels:
            stepped = [name for name in entering if self.plan.sources[name].level == "step"]
            firsts = {one.first for name in stepped for one in self.y[name][i]}
            tokens = [t for t in tokens if t in firsts]
        for t in tokens:
            yield sum_of([share.share for share in self.shares(i, t, weights)])

    def _entering(self) -> list[str]:
        """The streams of non-zero weight, and those that they may hand it to."""
        found = set()
        for name, stream in self.streams.items():
            at: str | None = name if _weight(stream) != 0.0 else None
            while at is not None and at not in found:
                found.add(at)
                at = self.streams[at].otherwise
        return [name for name in self.streams if name in found]

    # -- chunks (7)

    def _starts(self, i: int, stored: Collection[int]) -> list[tuple[int, str]]:
        """The token each chunk starts at, and why."""
        first, *others = self.counting[i]
        if not self.config.chunk:
            return [(0, f"token {first}"), *((t, f"token {t}") for t in others)]
        cuts: dict[int, list[str]] = {}
        several = len(self.plan.cutters) > 1
        for name in self.plan.cutters:
            if self.plan.sources[name].level == "step":
                found = [(one.first, f"step {one.place + 1}") for one in self.y[name][i][1:]]
            else:
                found = list(self._moves(name, i, stored))
            for t, why in found:
                cuts.setdefault(t, []).append(f"{name}: {why}" if several else why)
        return [(0, "start"), *((t, "; ".join(cuts[t])) for t in sorted(cuts))]

    def _moves(self, name: str, i: int, stored: Collection[int]) -> Iterator[tuple[int, str]]:
        """Where the group's mean y of a stream with a value a token has moved by more than eta."""
        first, *others = self.counting[i]
        before, eta = self.trace(name, first), self.config.eta
        for t in others:
            here = self.trace(name, t)
            moved, slack = abs(here.value - before.value), here.rounding + before.rounding
            if t in stored if abs(moved - eta) <= slack else moved > eta:
                yield t, f"moved {moved:.3g}"
                before = here

    def _trace(self, name: str, t: int) -> Number:
        """u_t, the same for every rollout."""
        there = self._by_token[name].get(t, [])
        return sum_of(there).times(1.0 / len(self.rows))

    @cached_property
    def _by_token(self) -> dict[str, dict[int, list[Number]]]:
        """Stream with a value a token -> token -> the y of the rollouts that have one there."""
        found: dict[str, dict[int, list[Number]]] = {}
        for name in self.plan.cutters:
            if self.plan.sources[name].level == "token":
                at: dict[int, list[Number]] = {}
                for one in (one for rollout in self.y[name] for one in rollout):
                    at.setdefault(one.first, []).append(one.y)
                found[name] = at
        return found

    # -- credit and length (8)

    def explain(self, i: int, stored: Collection[int]) -> StreamArithmetic:
        """Everything about rollout i."""
        weights = self.arrives(i)
        chunks = self._chunks(i, weights, stored)
        keys = {(name, _label(self.streams[name], self.rows[i], one)) for name in self.x for one in self.x[name][i]}
        pools = dict.fromkeys(found.pool for known, found in self.measures.items() if known in keys)
        return StreamArithmetic(
            trainable=True,
            reasons=(),
            group=len(self.rows),
            right=self.right(i) if self.outcomes else None,
            streams=tuple(self._facts(name, i, weights[name]) for name in self.streams),
            pools=tuple(pools),
            fused=None if self.fused is None else self.fused.pool,
            divides=self.config.divide,
            chunks=chunks,
            path_score=chunks[0].advantage if self.config.divide else None,
        )

    def _facts(self, name: str, i: int, arrives: float) -> StreamFacts:
        stream, source = self.streams[name], self.plan.sources[name]
        after: Sequence[Any] = stream.after
        before: Sequence[Any] = stream.transform
        return StreamFacts(
            name=name,
            signal=stream.signal,
            column=source.values,
            level=source.level,
            transform=shown(before),
            operator=stream.operator,
            pool=f"state ({stream.key})" if stream.pool == "state" else stream.pool,
            after=shown(after),
            gate=", ".join(stream.gates),
            open=self.open(name, i),
            otherwise=stream.otherwise,
            weight=_weight(stream),
            arrives=arrives,
        )

    def _chunks(self, i: int, weights: Mapping[str, float], stored: Collection[int]) -> tuple[StreamChunk, ...]:
        starts, length = self._starts(i, stored), len(self.rows[i]["loss_mask"])
        standardize = unmeasured if self.fused is None else self.fused.standardize
        k = self.config.k if self.config.divide else 0.0
        ends = [*(start for start, _ in starts[1:]), length]
        found: list[StreamChunk] = []
        rest, size = ZERO, 0.0
        for j in range(len(starts) - 1, -1, -1):
            (start, why), end = starts[j], ends[j]
            token = max(t for t in range(start, end) if self.rows[i]["loss_mask"][t])
            shares = self.shares(i, token, weights)
            fused = sum_of([share.share for share in shares])
            credit = standardize(fused)
            size += abs(credit.value)
            total = credit + rest
            rest = Number(total.value, total.rounding + UNIT * size) if self.config.divide else credit
            remaining = len(starts) - j
            found.append(
                StreamChunk(
                    start=start,
                    end=end,
                    token=token,
                    why=why,
                    shares=tuple(shares),
                    fused=fused,
                    credit=credit,
                    rest=rest,
                    remaining=remaining,
                    advantage=rest.times(remaining**-k),
                )
            )
        return tuple(reversed(found))


def _weight(stream: Stream) -> float:
    assert isinstance(stream.weight, float)  # `plan` refuses weights by round
    return stream.weight


def _key(row: Row, stream: Stream, element: Element) -> object:
    """The state of an element."""
    value = row[str(stream.key)]
    return value[element.place] if isinstance(value, list) else value


def _label(stream: Stream, row: Row, element: Element) -> object:
    return _key(row, stream, element) if stream.pool == "state" else None
