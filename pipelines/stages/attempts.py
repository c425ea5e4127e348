"""The attempts on record of a part: how often it was begun without being committed.

They are counted over commands, so that a part which kills the whole process is given up too; a part that was given up
gets a new count by the next command.
"""

from __future__ import annotations

from dataclasses import replace

from pass_ops.shards import Dataset, PendingParts, names


def with_new_count(dataset: Dataset, pending: PendingParts) -> Dataset:
    """The dataset as this command counts: from zero for parts given up before, else on from what is on record."""
    for part in pending.failed:
        dataset.store.remove(names.failed(part, dataset.fp8))
    given_up = set(pending.failed)
    return replace(dataset, attempts_before={p: n for p, n in dataset.attempts_before.items() if p in given_up})


def attempts_made(dataset: Dataset, part: int) -> int:
    """Attempts on record in the present count."""
    before = number = dataset.attempts_before.get(part, 0)
    while dataset.store.exists(names.attempt(part, dataset.fp8, number + 1)):
        number += 1
    return number - before


def withdraw_attempt(dataset: Dataset, part: int, attempt: int) -> None:
    """Take an attempt off the record: it was stopped from outside, which says nothing about the part."""
    dataset.store.remove(names.attempt(part, dataset.fp8, dataset.attempts_before.get(part, 0) + attempt))
