"""The arithmetic of one rollout under streams, in plain Python from docs/spec/streams.md by its sections.

It shares no code with `pass_ops` but the options, the table of columns (`plan`) and a user's own functions, which it
calls: what it finds is compared with what is stored. Each number carries its rounding, as in `arithmetic`.

Indices: rollout i of a group (its used ones), token t, element e of a stream.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from typing import Any

from pass_ops import ShapingConfig, Stream
from pass_ops.reading.stream_sources import Plan
from pipelines.inspect.explain.elements import Element, Fields, Rollout, counting_of, live_elements, states_of
from pipelines.inspect.explain.measured import Facts, Measure, measure, unmeasured
from pipelines.inspect.explain.pools import Number, Packed
from pipelines.inspect.explain.stream_result import Share, StreamArithmetic, StreamChunk, StreamFacts
from pipelines.inspect.explain.transforms import UNIT, About, shown, sum_of, transformed

ZERO = Number(0.0)


class StreamArithmetics:
    """The used rollouts of one group under streams: sections 2 to 8 of docs/spec/streams.md.

    What the rollouts share is kept as arrays; their elements only where `kept` says so.
    """

    def __init__(
        self,
        rows: Sequence[Fields],
        config: ShapingConfig,
        planned: Plan,
        recorded: Mapping[str, Mapping[str, float]],
        *,
        kept: bool,
    ) -> None:
        self.rows, self.config, self.plan, self.recorded = rows, config, planned, recorded
        self.streams: dict[str, Stream] = {name: (config.streams or {})[name] for name in planned.sources}
        self.measures: dict[tuple[str, object], Measure] = {}
        self.trace = cache(self._trace)
        self.rollout = cache(self._rollout) if kept else lru_cache(maxsize=1)(self._rollout)
        self.x: dict[str, list[Packed]] = {name: [] for name in self.streams}
        self.states: dict[str, dict[object, list[Packed]]] = {name: {} for name in planned.keys}
        for i in range(len(rows)):
            self._add(i)

    # -- elements and transforms (2, 3)

    def _add(self, i: int) -> None:
        """The live elements of rollout i, transformed; those of one state apart."""
        row = self.rows[i]
        counting, length = counting_of(row)
        for name, stream in self.streams.items():
            live = live_elements(self.plan.sources[name], row, counting, length=length)
            xs = transformed([Number(one.raw) for one in live], stream.transform, self._about(name, counting))
            self.x[name].append(Packed.of(xs))
            if stream.pool == "state":
                apart: dict[object, list[Number]] = {}
                for label, x in zip(states_of(stream, row, live), xs, strict=True):
                    apart.setdefault(label, []).append(x)
                for label, alike in apart.items():
                    self.states[name].setdefault(label, []).append(Packed.of(alike))

    def _about(self, name: str, counting: Sequence[int]) -> About:
        return About(level=self.plan.sources[name].level, counting=len(counting), mean_outcome=self.mean_outcome)

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

    def _rollout(self, i: int) -> Rollout:
        """The elements of rollout i standardized, and transformed once more."""
        row = self.rows[i]
        counting, length = counting_of(row)
        y: dict[str, list[Element]] = {}
        for name, stream in self.streams.items():
            live = live_elements(self.plan.sources[name], row, counting, length=length)
            xs = self.x[name][i].numbers()
            by = [self._measure(name, label) for label in states_of(stream, row, live)]
            standardized = [measured.standardize(x) for measured, x in zip(by, xs, strict=True)]
            after: tuple[Any, ...] = stream.after
            ys = transformed(standardized, after, self._about(name, counting))
            y[name] = [
                Element(one, x, measured.pool.center, measured.pool.scale, value, last)
                for one, x, measured, value, last in zip(live, xs, by, standardized, ys, strict=True)
            ]
        return Rollout(row=row, counting=counting, length=length, y=y)

    def _measure(self, name: str, label: object) -> Measure:
        """N(.; S) with the pool S that this stream's elements (of one state) are measured against."""
        stream, known = self.streams[name], (name, label)
        if known not in self.measures:
            measured = stream.pool == "dataset" and stream.operator != "none"
            joint = stream.pool == "joint"
            rows = self._pool(name, label)
            self.measures[known] = measure(
                stream.operator,
                rows,
                self.config,
                facts=Facts.recorded(self.recorded[name]) if measured else self._joint[1] if joint else Facts.of(rows),
                stream=", ".join(self._joined) if joint else name,
                pool=f"state {label!r}" if stream.pool == "state" else stream.pool,
            )
        return self.measures[known]

    def _pool(self, name: str, label: object) -> Sequence[Packed]:
        """S by rollout; of the whole dataset none of it is here."""
        pool = self.streams[name].pool
        if pool == "dataset":
            return []
        if pool == "joint":
            return self._joint[0]
        if pool == "state":
            return self.states[name][label]
        if pool in ("right", "wrong"):
            return [x for i, x in enumerate(self.x[name]) if self.right(i) == (pool == "right")]
        return self.x[name]

    @cached_property
    def _joined(self) -> list[str]:
        """The streams that share the pool `joint`."""
        return [name for name, stream in self.streams.items() if stream.pool == "joint"]

    @cached_property
    def _joint(self) -> tuple[Sequence[Packed], Facts]:
        """Their values by rollout, and what operators read of them: once for all of them."""
        each = ([x for name in self._joined for x in self.x[name][i].numbers()] for i in range(len(self.rows)))
        rows = [Packed.of(xs) for xs in each]
        return rows, Facts.of(rows)

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
        for name, elements in self.rollout(i).y.items():
            one = elements[bisect_left(elements, t, key=_last)]
            found.append(
                Share(
                    stream=name,
                    raw=one.live.raw,
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
    def fused(self) -> Measure | None:
        """The pool of the fused sum."""
        fused = self.config.fused
        if fused is None:
            return None
        whole = fused.pool == "dataset"
        rows = [] if whole else [Packed.of(list(self._summed(i))) for i in range(len(self.rows))]
        return measure(
            fused.operator,
            rows,
            self.config,
            facts=Facts.recorded(self.recorded[""]) if whole else Facts.of(rows),
            stream="",
            pool=f"{fused.pool}, by {fused.per}",
        )

    def _summed(self, i: int) -> Iterator[Number]:
        """Rollout i's values of S_A."""
        assert self.config.fused is not None
        weights, rollout = self.arrives(i), self.rollout(i)
        entering = self._entering()
        levels = {self.plan.sources[name].level for name in entering}
        if self.config.fused.per == "element" and levels == {"rollout"}:
            yield sum_of([rollout.y[name][0].y.times(weights[name]) for name in entering])
            return
        tokens = rollout.counting
        if self.config.fused.per == "element" and "token" not in levels:
            stepped = [name for name in entering if self.plan.sources[name].level == "step"]
            firsts = {one.first for name in stepped for one in rollout.y[name]}
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
        first, *others = self.rollout(i).counting
        if not self.config.chunk:
            return [(0, f"token {first}"), *((t, f"token {t}") for t in others)]
        cuts: dict[int, list[str]] = {}
        several = len(self.plan.cutters) > 1
        for name in self.plan.cutters:
            if self.plan.sources[name].level == "step":
                found = [(one.first, f"step {one.live.place + 1}") for one in self.rollout(i).y[name][1:]]
            else:
                found = list(self._moves(name, i, stored))
            for t, why in found:
                cuts.setdefault(t, []).append(f"{name}: {why}" if several else why)
        return [(0, "start"), *((t, "; ".join(cuts[t])) for t in sorted(cuts))]

    def _moves(self, name: str, i: int, stored: Collection[int]) -> Iterator[tuple[int, str]]:
        """Where the group's mean y of a stream with a value a token has moved by more than eta."""
        first, *others = self.rollout(i).counting
        before, eta = self.trace(name, first), self.config.eta
        for t in others:
            here = self.trace(name, t)
            moved, slack = abs(here.value - before.value), here.rounding + before.rounding
            if t in stored if abs(moved - eta) <= slack else moved > eta:
                yield t, f"moved {moved:.3g}"
                before = here

    def _trace(self, name: str, t: int) -> Number:
        """u_t, the same for every rollout."""
        there = self._by_token[name].get(t)
        return sum_of([] if there is None else there.numbers()).times(1.0 / len(self.rows))

    @cached_property
    def _by_token(self) -> dict[str, dict[int, Packed]]:
        """Stream with a value a token -> token -> the y of the rollouts that have one there."""
        cutting = [name for name in self.plan.cutters if self.plan.sources[name].level == "token"]
        found: dict[str, dict[int, Packed]] = {name: {} for name in cutting}
        for i in range(len(self.rows)):
            for name, at in found.items():
                for one in self.rollout(i).y[name]:
                    there = at.setdefault(one.first, Packed(array("d"), array("d")))
                    there.add(one.y)
        return found

    # -- credit and length (8)

    def explain(self, i: int, stored: Collection[int]) -> StreamArithmetic:
        """Everything about rollout i."""
        weights = self.arrives(i)
        chunks = self._chunks(i, weights, stored)
        pools = dict.fromkeys(
            self._measure(name, label).pool for name in self.streams for label in self._labels(name, i)
        )
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

    def _labels(self, name: str, i: int) -> list[object]:
        """The states of a stream's elements in rollout i, in the order in which the group has them; None without."""
        stream, rollout = self.streams[name], self.rollout(i)
        labels = set(states_of(stream, rollout.row, [one.live for one in rollout.y[name]]))
        return sorted(labels, key=self._order[name].__getitem__) if stream.pool == "state" else list(labels)

    @cached_property
    def _order(self) -> dict[str, dict[object, int]]:
        """Stream -> state -> its place among the group's."""
        return {name: {label: place for place, label in enumerate(found)} for name, found in self.states.items()}

    def _facts(self, name: str, i: int, arrives: float) -> StreamFacts:
        stream, source = self.streams[name], self.plan.sources[name]
        before, after = self._words[name]
        return StreamFacts(
            name=name,
            signal=stream.signal,
            column=source.values,
            level=source.level,
            transform=before,
            operator=stream.operator,
            pool=f"state ({stream.key})" if stream.pool == "state" else stream.pool,
            after=after,
            gate=", ".join(stream.gates),
            open=self.open(name, i),
            otherwise=stream.otherwise,
            weight=_weight(stream),
            arrives=arrives,
        )

    @cached_property
    def _words(self) -> dict[str, tuple[str, str]]:
        """Stream -> its transforms, before and after the operator, in words."""
        return {name: (shown(stream.transform), shown(stream.after)) for name, stream in self.streams.items()}

    def _chunks(self, i: int, weights: Mapping[str, float], stored: Collection[int]) -> tuple[StreamChunk, ...]:
        starts, rollout = self._starts(i, stored), self.rollout(i)
        standardize = unmeasured if self.fused is None else self.fused.standardize
        k = self.config.k if self.config.divide else 0.0
        ends = [*(start for start, _ in starts[1:]), rollout.length]
        found: list[StreamChunk] = []
        rest, size = ZERO, 0.0
        for j in range(len(starts) - 1, -1, -1):
            (start, why), end = starts[j], ends[j]
            token = rollout.counting[bisect_left(rollout.counting, end) - 1]
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


def _last(element: Element) -> int:
    return element.live.last
