"""The datasets of a re-scored run, part by part.

part i of the old prompts, rollouts, signals/NAME -> part i of the new ones; of signals, the rows whose rollout is kept
"""

from __future__ import annotations

import json
from concurrent.futures import Future

import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.shards import CompleteDataset, Dataset, DatasetSpec, Rejection, open_dataset
from pipelines.imports.encode import TURNS
from pipelines.parts.inputs import check_alignment, reopen
from pipelines.parts.loop import PartOutput, PartWork, in_background
from pipelines.parts.worker_check import check_worker
from pipelines.rescore.describe import STATISTICS
from pipelines.rescore.encode import Encoding
from pipelines.signals.base import Signal
from pipelines.signals.stage import ScoreWork


class RescoreWork(ScoreWork):
    """Rollouts with ids and log-probabilities: the stage score, whose values become a column of the rollouts."""

    def __init__(
        self,
        *,
        spec: DatasetSpec,
        rollouts: str,
        prompts: str,
        encoding: Encoding | None,
        scorer: Signal,
        journals: Dataset | None = None,
    ) -> None:
        """encoding: None where all ids are there. scorer: a signal of kind logprobs."""
        inputs = {"prompts": prompts}
        super().__init__(signal=scorer, spec=spec, rollouts=rollouts, inputs=inputs, tokenizer=None, journals=journals)
        self._encoding = encoding

    def setup(self) -> None:
        """The tokenizer and the model are the client's."""
        if self._encoding is not None:
            check_worker(self._spec, environment=self._encoding.environment())
        super().setup()

    def _scored(self, signal: Signal, part: int) -> PartOutput:
        rollouts = self._sources["rollouts"].read_part(part)
        rejected: list[Rejection] = []
        if self._encoding is not None:
            rollouts, rejected = self._encoding.encoded(rollouts, self._sources["prompts"].read_part(part))
        if TURNS in rollouts.column_names:
            rollouts = rollouts.drop_columns([TURNS])
        rollouts, unscored = with_logprobs(rollouts, signal.score(rollouts, {}))
        if "token_statistics" not in self._spec.carried:
            rollouts = rollouts.drop_columns([name for name in STATISTICS if name in rollouts.column_names])
        return PartOutput(table=rollouts, rejected=(*rejected, *unscored))


def with_logprobs(rollouts: pa.Table, scored: pa.Table) -> tuple[pa.Table, list[Rejection]]:
    """Rollouts with the log-probabilities of a sidecar of theirs; and those for which it has none, with its reason."""
    fine = pc.equal(scored["status"], "ok")
    names = ("prompt_id", "sample_index", "reason", "detail")
    values = (rollouts["group_id"], rollouts["sample_index"], scored["status"], scored["detail"])
    lacking = pa.table(list(values), names=names).filter(pc.invert(fine)).to_pylist()
    rejected = [Rejection(**row, transient=row["reason"] == "error") for row in lacking]
    at = rollouts.column_names.index("behavior_logprobs")
    return rollouts.set_column(at, "behavior_logprobs", scored["logprobs"]).filter(fine), rejected


class CopyWork(PartWork):
    """The parts of another dataset as they are, what they rejected included."""

    def __init__(self, source: str) -> None:
        self._url = source
        self._source: CompleteDataset

    def setup(self) -> None:
        """The dataset to copy."""
        self._source = open_dataset(self._url)

    def start(self, part: int) -> Future[PartOutput]:
        """Copy a part in a thread of its own."""
        return in_background(self._part, part)

    def _part(self, part: int) -> PartOutput:
        rejected = self._source.read_rejected(part)
        rows = [] if rejected is None else rejected.drop_columns(["stage"]).to_pylist()
        again = (Rejection(**{**row, "payload": json.loads(row["payload"] or "null")}) for row in rows)
        return PartOutput(table=self._source.read_part(part), rejected=tuple(again))


class SignalWork(PartWork):
    """A signal of the old rollouts beside the new ones: its rows of those that are still there."""

    def __init__(self, *, spec: DatasetSpec, signal: str, rollouts: str) -> None:
        self._spec, self._urls = spec, {"scored": signal, "rollouts": rollouts}
        self._sources: dict[str, CompleteDataset] = {}

    def setup(self) -> None:
        """The old signal and the new rollouts."""
        self._sources = {name: reopen(url, name, self._spec) for name, url in self._urls.items()}

    def start(self, part: int) -> Future[PartOutput]:
        """Take a part's rows in a thread of its own."""
        return in_background(self._part, part)

    def _part(self, part: int) -> PartOutput:
        rollouts = self._sources["rollouts"].read_part(part, ["rollout_id", "token_ids", "loss_mask"])
        table = self._sources["scored"].read_part(part)
        table = table.take(pc.index_in(rollouts["rollout_id"], value_set=table["rollout_id"].combine_chunks()))
        check_alignment(table, rollouts, what=f"{self._sources['scored'].url}, part {part}")
        return PartOutput(table=table)
