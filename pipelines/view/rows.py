"""The groups that a file shows, one after the other, with what each setting makes of them.

Axes: rollouts of a group (R), their tokens (N).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import token_advantages
from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.shards import CompleteDataset
from pipelines.parts.inputs import WrongInputError
from pipelines.view.sampling import Place
from pipelines.view.settings import Setting


@dataclass(frozen=True)
class Shaped:
    """A group as one setting shapes it: the rows of the setting's dataset, with its chunks."""

    setting: Setting
    table: pa.Table

    @cached_property
    def trainable_R(self) -> NDArray[np.bool_]:
        """Which rollouts are trainable."""
        found: NDArray[np.bool_] = self.table["trainable"].to_numpy().astype(np.bool_)
        return found

    @cached_property
    def advantage_N(self) -> NDArray[np.float32]:
        """The advantage of each token."""
        found: NDArray[np.float32] = list_values(token_advantages(self.table))
        return found

    @cached_property
    def chunks_R(self) -> NDArray[np.int64]:
        """Chunks of each rollout."""
        return list_lengths(self.table["chunk_ends"])

    def learnt_N(self, group: Group) -> NDArray[np.bool_]:
        """The tokens that a trainer reads: those that count, of trainable rollouts."""
        return group.mask_N & self.trainable_R[group.row_N]

    def chunk_at(self, row: int, token: int) -> int:
        """The chunk of a rollout that holds one of its tokens."""
        ends_K = np.asarray(self.table["chunk_ends"][row].as_py(), np.int64)
        return int(np.searchsorted(ends_K, token, side="right"))


@dataclass(frozen=True)
class Group:
    """One group: its number in the file, its rows with every column, where it lies, and the settings' results."""

    number: int
    table: pa.Table
    place: Place
    shaped: tuple[Shaped, ...]

    @property
    def name(self) -> str:
        """Its group_id."""
        return str(self.table["group_id"][0].as_py())

    @cached_property
    def tokens_R(self) -> NDArray[np.int64]:
        """Tokens of each rollout."""
        return list_lengths(self.table["loss_mask"])

    @cached_property
    def starts_R(self) -> NDArray[np.int64]:
        """Where each rollout's tokens begin among the group's."""
        return np.cumsum(self.tokens_R) - self.tokens_R

    @cached_property
    def row_N(self) -> NDArray[np.int64]:
        """The rollout of each token."""
        return np.repeat(np.arange(len(self.tokens_R)), self.tokens_R)

    @cached_property
    def mask_N(self) -> NDArray[np.bool_]:
        """Which tokens count."""
        return list_values(self.table["loss_mask"]).astype(np.bool_)

    def span(self, row: int) -> slice:
        """A rollout's tokens among the group's."""
        return slice(int(self.starts_R[row]), int(self.starts_R[row] + self.tokens_R[row]))


def read_groups(
    datasets: Sequence[CompleteDataset], places: Sequence[Place], settings: Sequence[Setting]
) -> Iterator[Group]:
    """The groups at `places`, in order; of each dataset one part is in memory at a time.

    Raises WrongInputError where another dataset's rows are not the first one's.
    """
    tables: list[pa.Table] = []
    part = -1
    for number, place in enumerate(places):
        if place.part != part:
            part = place.part
            tables = [dataset.read_part(part) for dataset in datasets]
        groups = [table.slice(place.first, place.last - place.first) for table in tables]
        for dataset, group in zip(datasets[1:], groups[1:], strict=True):
            _check_same(groups[0], group, first=datasets[0].url, other=dataset.url)
        shaped = tuple(Shaped(one, one.of(groups[one.dataset])) for one in settings)
        yield Group(number, groups[0], place, shaped)


def check_same_rollouts(datasets: Sequence[CompleteDataset]) -> None:
    """Refuse datasets that were shaped from different rollouts. Raises WrongInputError."""
    first, *others = datasets
    made_from = first.spec.inputs.get("rollouts")
    for other in others:
        also = other.spec.inputs.get("rollouts")
        differ = made_from is not None and also is not None and made_from.content_digest != also.content_digest
        if differ or len(first.parts) != len(other.parts):
            raise WrongInputError(_OTHER_ROLLOUTS.format(first=first.url, other=other.url))


_OTHER_ROLLOUTS = (
    "{first} and {other} do not hold the same rollouts, so their tokens cannot be shown side by side. "
    "Give datasets that were shaped from one dataset of rollouts, and make a file for each of the others"
)


def _check_same(table: pa.Table, also: pa.Table, *, first: str, other: str) -> None:
    alike = table["rollout_id"].equals(also["rollout_id"])
    if not (alike and np.array_equal(list_lengths(table["loss_mask"]), list_lengths(also["loss_mask"]))):
        raise WrongInputError(_OTHER_ROLLOUTS.format(first=first, other=other))
