"""Which groups of a dataset go into the file: all, those that are named, or whole groups drawn up to a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass_ops.errors import PassError
from pass_ops.reading.groups import group_bounds
from pass_ops.reading.ragged import list_lengths
from pass_ops.shards import CompleteDataset
from pass_ops.support.nearest import advice


class UnknownGroupError(PassError, LookupError):
    """A group was named that the dataset has not."""


@dataclass(frozen=True)
class Place:
    """A group's rows in a dataset: part, first row, row after the last."""

    part: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The groups shown, in the dataset's order, and how they were chosen. groups, rollouts, tokens: all there are."""

    places: tuple[Place, ...]
    rule: str
    groups: int
    rollouts: int
    tokens: int


def sample_groups(
    dataset: CompleteDataset, *, names: Sequence[str] = (), max_rollouts: int, max_tokens: int, seed: int = 0
) -> Sample:
    """The groups named in `names`, or else a uniform sample within both limits.

    Every group gets a random number by the seed; they are taken from the smallest on until the next would pass a limit,
    the first one in any case. Which groups these are depends on the groups' order and sizes alone.

    Raises UnknownGroupError.
    """
    sizes, found = _scan(dataset, names)
    if names:
        if missing := [name for name in names if name not in found]:
            known = dataset.read_part(0, ["group_id"])["group_id"].unique().to_pylist() if dataset.parts else []
            hint = advice(missing[0], known) if known else "it holds no groups"
            raise UnknownGroupError(f"--groups: {dataset.url} has no group {missing[0]!r}; {hint}")
        chosen = np.array(sorted(found.values()), np.int64)
        rule = f"The {_count(len(chosen), 'group')} named with --groups, of {len(sizes):,} in the dataset."
    else:
        chosen = _drawn(sizes, max_rollouts=max_rollouts, max_tokens=max_tokens, seed=seed)
        rule = _rule(sizes, chosen, max_rollouts=max_rollouts, max_tokens=max_tokens, seed=seed)
    return Sample(
        places=tuple(Place(*map(int, sizes[number, :3])) for number in chosen),
        rule=rule,
        groups=len(sizes),
        rollouts=int((sizes[:, 2] - sizes[:, 1]).sum()),
        tokens=int(sizes[:, 3].sum()),
    )


def _scan(dataset: CompleteDataset, names: Sequence[str]) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Part, first row, row after the last, and tokens of each group; and the numbers of the groups named."""
    wanted = set(names)
    found: dict[str, int] = {}
    made = [np.zeros((0, 4), np.int64)]
    seen = 0
    for part in range(len(dataset.parts)):
        table = dataset.read_part(part, ["group_id", "loss_mask"])
        bounds_G1 = group_bounds(table["group_id"])
        if len(bounds_G1) == 1:
            continue
        tokens_G = np.add.reduceat(list_lengths(table["loss_mask"]), bounds_G1[:-1])
        heads = table["group_id"].take(bounds_G1[:-1]).to_pylist() if wanted else []
        for number, name in enumerate(heads):
            if name in wanted:
                found.setdefault(name, seen + number)
        parts_G = np.full(len(tokens_G), part)
        made.append(np.stack([parts_G, bounds_G1[:-1], bounds_G1[1:], tokens_G], axis=1).astype(np.int64))
        seen += len(tokens_G)
    return np.concatenate(made), found


def _drawn(sizes: NDArray[np.int64], *, max_rollouts: int, max_tokens: int, seed: int) -> NDArray[np.int64]:
    """Numbers of the groups drawn, in order."""
    order = np.argsort(np.random.default_rng(seed).random(len(sizes)), kind="stable")
    rollouts = np.cumsum(sizes[order, 2] - sizes[order, 1])
    fits = (rollouts <= max_rollouts) & (np.cumsum(sizes[order, 3]) <= max_tokens)
    fits[:1] = True
    chosen: NDArray[np.int64] = np.sort(order[: int(np.argmin(fits)) if not fits.all() else len(order)])
    return chosen


def _rule(sizes: NDArray[np.int64], chosen: NDArray[np.int64], *, max_rollouts: int, max_tokens: int, seed: int) -> str:
    if len(chosen) == len(sizes):
        return f"Every group of the dataset: {_count(len(sizes), 'group')}."
    return (
        f"{_count(len(chosen), 'group')} of {len(sizes):,}, drawn uniformly (seed {seed}) until another would pass "
        f"{max_rollouts:,} rollouts (--max-rollouts) or {max_tokens:,} tokens (--max-tokens). Lists and figures are of "
        "these groups; histograms of the run page are of all rows. --groups names others."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
