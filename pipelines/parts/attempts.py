"""The attempts on record of a part: how often it was begun, by any command, since it was last given up."""

from __future__ import annotations

from pass_ops.shards import Dataset, names
from pass_ops.shards.commit import last_attempt


def attempts_made(dataset: Dataset, part: int) -> int:
    """Attempts on record since the part was last given up, whichever command or worker made them."""
    before = dataset.attempts_before.get(part, 0)
    return last_attempt(dataset, part, after=before) - before


def withdraw_attempt(dataset: Dataset, part: int, attempt: int) -> None:
    """Take an attempt off the record: it was stopped from outside, which says nothing about the part."""
    dataset.store.remove(names.attempt(part, dataset.fp8, dataset.attempts_before.get(part, 0) + attempt))
