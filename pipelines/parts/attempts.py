"""The attempts on record of a part: how often it was begun, by any command, since it was last given up."""

from __future__ import annotations

from pass_ops.shards import Dataset, names


def attempts_made(dataset: Dataset, part: int) -> int:
    """Attempts on record since the part was last given up, whichever command or worker made them."""
    before = number = dataset.attempts_before.get(part, 0)
    while _is_on_record(dataset, names.attempt(part, dataset.fp8, number + 1)):
        number += 1
    return number - before


def _is_on_record(dataset: Dataset, name: str) -> bool:
    """Asked by reading the little file: `exists` would also list the store, for a folder of that name."""
    return dataset.store.read_many([name])[name] is not None


def withdraw_attempt(dataset: Dataset, part: int, attempt: int) -> None:
    """Take an attempt off the record: it was stopped from outside, which says nothing about the part."""
    dataset.store.remove(names.attempt(part, dataset.fp8, dataset.attempts_before.get(part, 0) + attempt))
