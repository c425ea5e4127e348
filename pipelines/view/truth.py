"""The advantage A* of a truer process signal, beside the groups shown.

Axes: tokens of a group (N).
"""

from __future__ import annotations

import posixpath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.shards import CompleteDataset
from pass_ops.shards.paths import resolve_folder
from pipelines.inspect.sweep.choose import open_truth
from pipelines.inspect.sweep.truth import TruthAs, truth_advantages
from pipelines.parts.inputs import WrongInputError, check_alignment, open_rollouts
from pipelines.view.rows import Group


class TruthSource:
    """A signal of the same rollouts, read part by part."""

    def __init__(self, name: str, dataset: CompleteDataset, truth_as: TruthAs) -> None:
        self._name = name
        self._dataset = dataset
        self._truth_as = truth_as
        self._part = -1
        self._table: pa.Table | None = None

    def advantages(self, group: Group) -> NDArray[np.float32]:
        """A* of each token; NaN throughout a rollout without a truth. Raises AlignmentError."""
        place = group.place
        if self._table is None or self._part != place.part:
            self._part, self._table = place.part, self._dataset.read_part(place.part)
        rows = self._table.slice(place.first, place.last - place.first)
        check_alignment(rows, group.table, what=f"signal {self._name!r}")
        truth = truth_advantages(group.table, rows, as_=self._truth_as)
        return np.where(truth.valid_R[group.row_N], truth.advantage_N, np.nan).astype(np.float32)


def open_truth_of(shaped: CompleteDataset, name: str) -> TruthSource:
    """The signal `name` in the round that a shaped dataset was made in.

    Raises WrongInputError where it is no process signal or the rollouts are not known, and what `open_rollouts` and
    `open_signal` raise.
    """
    ref = shaped.spec.inputs.get("rollouts")
    if ref is None:
        raise WrongInputError(
            f"--truth: {shaped.url} does not say which rollouts it was made from, so no signal can be held beside it. "
            "Leave --truth out"
        )
    rollouts = resolve_folder(shaped.url, ref.folder)
    signals = posixpath.join(posixpath.dirname(rollouts.rstrip("/")), "signals")
    return TruthSource(name, *open_truth(name, None, signals=signals, source=open_rollouts(rollouts)))
