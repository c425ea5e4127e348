"""The worst offenders of each kind among the groups shown, each a place in the file.

Axes: tokens of a group (N), of one rollout (T), chunks of one rollout (K).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.inspect.stored import RIGHT, WRONG
from pipelines.view.columns import BEHAVIOR, Column, token_values
from pipelines.view.groups import verdicts_of
from pipelines.view.padding import Pieces, padding
from pipelines.view.rows import Group, Shaped
from pipelines.view.settings import Setting

LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Offence:
    """The head's row of an offender. start, end: tokens of the rollout; chunk: None where it is meant as a whole."""

    group: int
    rollout: int
    chunk: int | None
    start: int
    end: int
    value: float
    note: str


@dataclass(frozen=True)
class Looked:
    """A group being looked at. pieces: what its text is made of, where that is known; truth_N: A* of each token."""

    group: Group
    pieces: Pieces | None
    truth_N: NDArray[np.float32] | None


@dataclass
class Worst:
    """The LISTED worst of one kind; `find` yields a group's. setting: whose chunks are meant."""

    kind: str
    title: str
    rule: str
    unit: str
    find: Callable[[Looked], Iterator[Offence]]
    setting: int = 0
    _kept: list[tuple[float, int, Offence]] = field(default_factory=list)
    _seen: int = 0

    def add(self, looked: Looked) -> None:
        """One group; of equal values the earlier ones stay."""
        for found in self.find(looked):
            self._seen += 1
            entry = (abs(found.value), -self._seen, found)
            (heapq.heappush if len(self._kept) < LISTED else heapq.heappushpop)(self._kept, entry)

    @property
    def plain(self) -> dict[str, Any]:
        """The head's OFFENDERS."""
        rows = [asdict(found) for _, _, found in sorted(self._kept, key=lambda kept: (-kept[0], -kept[1]))]
        said = "" if rows else " None was found."
        listed = f" The worst {LISTED} of {self._seen:,}." if self._seen > LISTED else ""
        return {
            "kind": self.kind, "title": self.title, "rule": self.rule + said + listed, "unit": self.unit,
            "setting": self.setting, "rows": rows,
        }  # fmt: skip


def offender_lists(
    settings: Sequence[Setting], columns: Sequence[Column], *, truth: str | None, own: Sequence[str] = ()
) -> list[Worst]:
    """The lists of a file. truth: the name of the signal that advantages are held against. own: log-prob columns of the
    policy that sampled.
    """
    lists = [
        Worst(
            "padding", "Longest padding that earned credit",
            "Neighbouring steps (lines, where no signal has steps) that are blank or repeat an earlier one of the same "
            "rollout word for word, whose tokens that count have a positive advantage in sum. Longest first.",
            "tokens", _padding,
        ),
        Worst(
            "right_punished", "Right rollouts punished",
            "The verifier says right, and the advantages of the tokens that count sum to less than 0.",
            "sum of advantages", _verdict(RIGHT, -1.0),
        ),
        Worst(
            "wrong_rewarded", "Wrong rollouts rewarded",
            "The verifier says wrong, and the advantages of the tokens that count sum to more than 0.",
            "sum of advantages", _verdict(WRONG, 1.0),
        ),
    ]  # fmt: skip
    if truth is not None:
        rule = (
            f"Chunks whose advantage A and whose mean truth A* (signal {truth}) have opposite signs. Largest product "
            "|A A*| first."
        )
        lists.append(Worst("truth_disagrees", f"Chunks where credit and {truth} disagree", rule, "|A A*|", _untrue))
    others = [column.name for column in columns if column.kind == "logprob" and column.name != BEHAVIOR]
    lists += [_gap_list(name, own=name in own) for name in others]
    for number, setting in enumerate(settings[1:], start=1):
        rule = (
            f"Runs of tokens that {settings[0].name} rewards and {setting.name} punishes, or the other way round. "
            "Largest difference first."
        )
        title = f"Sign flips: {settings[0].name} to {setting.name}"
        lists.append(Worst("sign_flip", title, rule, "difference of advantages", _flips(number), setting=number))
    return lists


def _gap_list(name: str, *, own: bool) -> Worst:
    whose = (
        f"{name} is the policy's own: the sampler's numbers against the trainer's."
        if own
        else f"{name} is not known to be the policy's own: between two models a gap is no fault."
    )
    rule = f"The token of each rollout where the sampler's log-prob and {name} are furthest apart. {whose}"
    title = f"Largest gap between sampler and {'trainer' if own else name}"
    return Worst("gap", title, rule, "nats", _gap(name))


def _padding(looked: Looked) -> Iterator[Offence]:
    group = looked.group
    if looked.pieces is None:
        return
    first = group.shaped[0]
    read_N = first.learnt_N(group)
    for row in range(len(group.tokens_R)):
        span = group.span(row)
        earned_T = np.where(read_N[span], first.advantage_N[span], 0.0)
        for start, end, text in padding(looked.pieces, group, row):
            total = float(earned_T[start:end].sum(dtype=np.float64))
            if total > 0.0:
                note = f"{total:+.3g} in sum for {text}"
                yield _offence(group, first, row, start, end, value=end - start, note=note)


def _verdict(statuses: Sequence[str], sign: float) -> Callable[[Looked], Iterator[Offence]]:
    """Rollouts of these verdicts whose advantages sum to a number of this sign."""

    def find(looked: Looked) -> Iterator[Offence]:
        group, first = looked.group, looked.group.shaped[0]
        earned_N = np.where(first.learnt_N(group), first.advantage_N.astype(np.float64), 0.0)
        for row, verdict in enumerate(verdicts_of(group)):
            span = group.span(row)
            total = float(earned_N[span].sum())
            if verdict in statuses and total * sign > 0.0:
                length = span.stop - span.start
                note = f"{verdict}; {total / length:+.3g} a token"
                yield Offence(group=group.number, rollout=row, chunk=None, start=0, end=length, value=total, note=note)

    return find


def _untrue(looked: Looked) -> Iterator[Offence]:
    group, first = looked.group, looked.group.shaped[0]
    if looked.truth_N is None:
        return
    read_N = first.learnt_N(group) & ~np.isnan(looked.truth_N)
    for row, ends_K in enumerate(first.table["chunk_ends"].to_pylist()):
        span = group.span(row)
        for start, end in pairwise([0, *ends_K]):
            here = slice(span.start + start, span.start + end)
            if not read_N[here].any():
                continue
            true = float(looked.truth_N[here][read_N[here]].mean(dtype=np.float64))
            made = float(first.advantage_N[here.start])
            if true * made < 0.0:
                note = f"A {made:+.3g}, A* {true:+.3g}"
                yield _offence(group, first, row, start, end, value=abs(true * made), note=note)


def _gap(name: str) -> Callable[[Looked], Iterator[Offence]]:
    def find(looked: Looked) -> Iterator[Offence]:
        group = looked.group
        sampler_N, other_N = (token_values(group, one) for one in (BEHAVIOR, name))
        gap_N = np.abs(other_N.astype(np.float64) - sampler_N)  # 0 where masked, as both are
        for row in range(len(group.tokens_R)):
            span = group.span(row)
            if np.isnan(gap_N[span]).all():
                continue
            at = int(np.nanargmax(gap_N[span]))
            n = span.start + at
            if gap_N[n] > 0.0:
                note = f"sampler {sampler_N[n]:.4g}, {name} {other_N[n]:.4g}"
                yield _offence(group, group.shaped[0], row, at, at + 1, value=float(gap_N[n]), note=note)

    return find


def _flips(number: int) -> Callable[[Looked], Iterator[Offence]]:
    """Runs of tokens whose advantages flip between setting 0 and this one, each of one advantage under both."""

    def find(looked: Looked) -> Iterator[Offence]:
        group = looked.group
        first, other = group.shaped[0], group.shaped[number]
        both_N = first.learnt_N(group) & other.learnt_N(group)
        for row in range(len(group.tokens_R)):
            span = group.span(row)
            one_T, two_T = first.advantage_N[span], other.advantage_N[span]
            flips_T = both_N[span] & (np.sign(one_T) * np.sign(two_T) < 0.0)
            if not flips_T.any():
                continue
            changes_T = (np.diff(one_T) != 0.0) | (np.diff(two_T) != 0.0) | (np.diff(flips_T.astype(np.int8)) != 0)
            bounds = [0, *(np.flatnonzero(changes_T) + 1).tolist(), len(flips_T)]
            for start, end in pairwise(bounds):
                if flips_T[start]:
                    made = float(one_T[start]), float(two_T[start])
                    note = f"{made[0]:+.3g} becomes {made[1]:+.3g}"
                    yield _offence(group, other, row, start, end, value=abs(made[1] - made[0]), note=note)

    return find


def _offence(group: Group, shaped: Shaped, row: int, start: int, end: int, *, value: float, note: str) -> Offence:
    """One at tokens start..end of a rollout; its chunk is that of `start`."""
    chunk = shaped.chunk_at(row, start)
    return Offence(group=group.number, rollout=row, chunk=chunk, start=start, end=end, value=float(value), note=note)
