"""Outcome verdicts computed again on stored rollouts, beside those stored: what another verifier would change.

Nothing is written. No Beam job either: verifiers run in processes of their own anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.parts.inputs import open_prompts, open_rollouts, open_signal
from pipelines.parts.operations import Progress
from pipelines.signals.base import Signal, SignalInputError
from pipelines.signals.stage import score_part

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Change:
    """One rollout whose verdict differs: (verify_status, outcome_reward, extracted_answer) before and after."""

    rollout_id: str
    answer: str | None
    before: tuple[str, float | None, str | None]
    after: tuple[str, float | None, str | None]


@dataclass(frozen=True, kw_only=True)
class VerdictDiff:
    """rows: rollouts compared. moves: "before -> after" status and how often, unchanged ones too. changes: in order."""

    rows: int
    moves: dict[str, int]
    changes: list[Change] = field(default_factory=list)


def reverify(
    signal: Signal, *, rollouts: str, stored: str, prompts: str | None = None, progress: Progress | None = None
) -> VerdictDiff:
    """Score every stored rollout with `signal` and compare with the dataset `stored`, which stays as it is.

    A row differs where its status or its reward does. Raises SignalInputError where either is no outcome signal, and
    what opening datasets that do not belong together raises.
    """
    source = open_rollouts(rollouts)
    before = open_signal(stored, "stored", source)
    kinds = {"the configured signal": signal.kind, stored: str(before.spec.options.get("kind"))}
    for name, kind in kinds.items():
        if kind != "outcome":
            raise SignalInputError(f"{name} is of kind {kind}; only verdicts, of kind outcome, can be compared")
    signal.check(source.spec, {})
    tasks = open_prompts(prompts, source) if prompts is not None and "prompts" in signal.inputs else None
    moves: Counter[str] = Counter()
    changes: list[Change] = []
    for part in range(source.spec.parts):
        table = source.read_part(part)
        inputs = {"prompts": tasks.read_part(part)} if tasks is not None else {}
        after = score_part(signal, table, inputs, where=f"part {part}")
        for change in _compared(table, before.read_part(part), after):
            moves[f"{change.before[0]} -> {change.after[0]}"] += 1
            if change.before[:2] != change.after[:2]:
                changes.append(change)
        if progress is not None:
            progress(part + 1, source.spec.parts)
    return VerdictDiff(rows=moves.total(), moves=dict(moves.most_common()), changes=changes)


def diff_lines(name: str, diff: VerdictDiff) -> Iterator[str]:
    """The diff for people: totals, moves, the first changes."""
    yield f"{name}: {len(diff.changes):,} of {diff.rows:,} verdicts change"
    for move, count in diff.moves.items():
        yield f"  {count:>9,}  {move}"
    for change in diff.changes[:SHOWN]:
        was, now = (f"{status} {reward} ({read!r})" for status, reward, read in (change.before, change.after))
        yield f"  {change.rollout_id}: {was} -> {now}; {change.answer!r}"
    if len(diff.changes) > SHOWN:
        yield f"  and {len(diff.changes) - SHOWN:,} more (--json lists all)"


def _compared(rollouts: pa.Table, before: pa.Table, after: pa.Table) -> Iterator[Change]:
    columns = ("verify_status", "outcome_reward", "extracted_answer")
    old, new = (zip(*(table[name].to_pylist() for name in columns), strict=True) for table in (before, after))
    ids, answers = rollouts["rollout_id"].to_pylist(), rollouts["answer"].to_pylist()
    for rollout_id, answer, was, now in zip(ids, answers, old, new, strict=True):
        yield Change(rollout_id=rollout_id, answer=answer, before=was, after=now)
