"""Finished rollouts -> rows of the contract's `rollouts`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import shards
from pass_ops.reading.ragged import list_array, offsets
from pipelines.engines.base import Sample
from pipelines.programs.conversation import Completion
from pipelines.rollouts.encode import PlannedPrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """A rollout to be made."""

    prompt: PlannedPrompt
    sample_index: int
    seed: int

    @property
    def rollout_id(self) -> str:
        """Its name in its dataset."""
        return f"{self.prompt.prompt_id}/{self.sample_index}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One completion of a prompt."""

    place: Place
    completion: Completion


def rollouts_table(rollouts: Sequence[Rollout], *, statistics: bool = False) -> pa.Table:
    """Rows of the contract's `rollouts`, in the order given; with the columns of token statistics where asked for."""
    places = [rollout.place for rollout in rollouts]
    samples = [rollout.completion.sample for rollout in rollouts]
    prompts = {prompt.prompt_id: prompt for prompt in (place.prompt for place in places)}
    prompt_ids = {name: np.asarray(prompt.token_ids, np.int32) for name, prompt in prompts.items()}
    columns = {
        "group_id": [place.prompt.prompt_id for place in places],
        "sample_index": [place.sample_index for place in places],
        "rollout_id": [place.rollout_id for place in places],
        "prompt_token_ids": _lists((prompt_ids[place.prompt.prompt_id] for place in places), np.int32),
        "token_ids": _lists((sample.token_ids for sample in samples), np.int32),
        "text": [sample.text for sample in samples],
        "behavior_logprobs": _lists((sample.logprobs for sample in samples), np.float32),
        "loss_mask": _lists((rollout.completion.loss_mask for rollout in rollouts), np.bool_),
        "finish_reason": [sample.finish_reason for sample in samples],
        "seed": [place.seed for place in places],
        "answer": [place.prompt.answer for place in places],
    }
    if not statistics:
        return pa.table(columns, schema=shards.ROLLOUTS)
    for row, name in enumerate(shards.TOKEN_STATISTICS.names):
        columns[name] = _lists((_statistic(sample, row) for sample in samples), np.float32)
    return pa.table(columns, schema=pa.schema([*shards.ROLLOUTS, *shards.TOKEN_STATISTICS]))


def _statistic(sample: Sample, row: int) -> NDArray[np.float32]:
    """Row `row` of a sample's statistics; nothing of an empty completion."""
    return np.zeros(0, np.float32) if sample.statistics is None else sample.statistics[row]


def _lists(rows: Iterable[NDArray[Any]], dtype: type[np.generic]) -> pa.ListArray:
    """A list column from one array of this dtype a row."""
    arrays = list(rows)
    counts_R = np.fromiter(map(len, arrays), np.int64, len(arrays))
    return list_array(offsets(counts_R), np.concatenate([np.zeros(0, dtype), *arrays], dtype=dtype))
