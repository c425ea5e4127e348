"""The score stage's signals: processor time of each beside that of a bare pyarrow read and write of what it needs.

The bare work reads the columns that the signal reads, of the rollouts and of other signals, and writes its sidecar with
the same codec, for the same part. A signal that calls a verifier counts its child processes, and is held against the
verifier alone, called in a loop; one that asks a model stands before made-up answers, and is held against the seconds
that a model of 10,000 tokens/s takes for the same tokens. What the stage does around the signal stands beside it, in us
a row: reading the part (`read`), and checking, encoding and hashing the sidecar (`prepare`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench_score import POLICY, SIGNALS, Stored

from pass_ops.reading.ragged import list_lengths
from pass_ops.shards import CompleteDataset, DatasetSpec, open_dataset
from pass_ops.shards.commit import prepare_part
from pass_ops.shards.encoding import writer_options
from pass_ops.shards.schemas import conform
from pass_ops.shards.spec import FORMAT_VERSION
from pass_ops.shards.tables import ROWS_PER_ROW_GROUP
from pass_ops.support.importing import load_object
from pipelines.signals import Signal, signal_from_table
from pipelines.signals.stage import rollout_columns
from pipelines.verifiers.limits import used
from pipelines.verifiers.pool import shared_pool
from stages.measure import Line, in_turns, line

FORMED = ("opd", "g_opd", "combine")
CALLING = ("format", "outcome number", "outcome regex", "execution")
ASKING = ("teacher", "prm")
MADE_FIRST = ("teacher", "base", "execution", "prm")
#: a signal of columns may itself cost as much as reading and writing them
FORMED_LIMIT = 1.0
#: the whole beside what is called: a call may add 8 us to the cheapest, a regular expression of 2 us
CALLING_LIMIT = 5.0
MODEL_TOKENS_PER_S, ASKING_LIMIT = 10_000, 0.05


def lines(folder: Path, *, quick: bool = False) -> Iterator[Line]:
    """One line a signal, of one part."""
    repeats = 2 if quick else 5
    stored = Stored(folder / "stored", parts=1)
    for name in MADE_FIRST:
        stored.score(name, signal_from_table(SIGNALS[name][0]))
    for name in (*FORMED, *CALLING, *ASKING):
        yield Case.of(folder / "stored", name).line(name, repeats=repeats)


@dataclass(frozen=True)
class Case:
    """A signal, ready to score its one part."""

    signal: Signal
    sources: Mapping[str, CompleteDataset]
    tables: Mapping[str, pa.Table]
    scratch: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Case:
        """The signal of this name over the stored part, with one calling process."""
        table = SIGNALS[name][0] | ({"workers": 1} if name in CALLING else {})
        signal = signal_from_table(table)
        signal.setup(POLICY)
        places = {name: folder / ("prompts" if name == "prompts" else f"signals/{name}") for name in signal.inputs}
        sources = {
            name: open_dataset(str(place)) for name, place in {"rollouts": folder / "rollouts", **places}.items()
        }
        return cls(signal, sources, {name: one.read_part(0) for name, one in sources.items()}, folder / "bare.parquet")

    def score(self) -> pa.Table:
        """The sidecar."""
        inputs = {name: table for name, table in self.tables.items() if name != "rollouts"}
        return self.signal.score(self.tables["rollouts"], inputs)

    def line(self, name: str, *, repeats: int) -> Line:
        """The signal's line: of columns, calls or requests."""
        rows = self.tables["rollouts"].num_rows
        if name in FORMED:
            sidecar = conform(self.score(), "score")
            ours, bare = in_turns(repeats, self.score, lambda: self._bare(sidecar))
            spent, against, limit = ours.processor, bare.processor, FORMED_LIMIT
            what = f"pyarrow alone: {1e6 * against / rows:.2f}"
        elif name in CALLING:
            spent, against, limit = self._with_children(repeats), self._called(name, repeats), CALLING_LIMIT
            what = f"what it calls, in a loop: {1e6 * against / rows:.2f}"
        else:
            (ours,) = in_turns(repeats, self.score)
            tokens = sum(int(list_lengths(self.tables["rollouts"][c]).sum()) for c in ("prompt_token_ids", "token_ids"))
            spent, against, limit = ours.processor, tokens / MODEL_TOKENS_PER_S, ASKING_LIMIT
            what = f"a model at {MODEL_TOKENS_PER_S} tokens/s: {1e6 * against / rows:.0f}"
        value = 1e6 * spent / rows
        return line(
            f"score: {name}, processor",
            value=value,
            unit="us/row",
            against=what,
            ratio=spent / against,
            limit=limit,
            rows=rows,
            **self._around(repeats),
        )

    def _around(self, repeats: int) -> dict[str, float]:
        """Processor us a row of what the stage does before and after the signal."""
        spec = DatasetSpec(stage="score", stage_version=1, options={"kind": self.signal.kind}, parts=1)
        sidecar, columns = self.score(), rollout_columns(self.signal)

        def read() -> None:
            for name, source in self.sources.items():
                source.read_part(0, columns if name == "rollouts" else None)

        reading, preparing = in_turns(repeats, read, lambda: prepare_part(spec, 0, sidecar, url="bench"))
        rows = self.tables["rollouts"].num_rows
        return {
            "read": round(1e6 * reading.processor / rows, 2),
            "prepare": round(1e6 * preparing.processor / rows, 2),
        }

    def _bare(self, sidecar: pa.Table) -> None:
        for name, source in self.sources.items():
            columns = rollout_columns(self.signal) if name == "rollouts" else None
            pq.read_table(f"{source.url}/{source.parts[0].data}", columns=columns)
        options = writer_options(sidecar.schema, format_version=FORMAT_VERSION)
        pq.write_table(sidecar, self.scratch, row_group_size=ROWS_PER_ROW_GROUP, **options)

    def _with_children(self, repeats: int) -> float:
        """Processor seconds of this process and of the one that calls."""
        self.score()  # starts it
        signal: Any = self.signal
        adapter = {"format": "plain_bool", "process_steps": "plain_scores"}.get(signal.kind, "plain_verdict")
        pool = shared_pool(
            signal._target, adapter=f"pipelines.verifiers.base:{adapter}", workers=1, memory_mb=signal.memory_mb
        )
        (pid,) = pool.pids()
        spent = []
        for _ in range(repeats):
            begun, child = time.process_time(), used(pid)
            self.score()
            after = used(pid)
            spent.append(time.process_time() - begun + (after.computed - child.computed if child and after else 0.0))
        return min(spent)

    def _called(self, name: str, repeats: int) -> float:
        """Processor seconds of the called function alone, on the same arguments."""
        signal: Any = self.signal
        rollouts = self.tables["rollouts"]
        function, texts = load_object(signal._target), rollouts["text"].to_pylist()
        if name == "format":
            options: Mapping[str, Any] = signal._call_options
            calls: list[tuple[Any, ...]] = [(text,) for text in texts]
        elif name == "execution":
            prompts = dict(zip(*(self.tables["prompts"][c].to_pylist() for c in ("prompt_id", "prompt")), strict=True))
            asked = [prompts[group] for group in rollouts["group_id"].to_pylist()]
            cut = [steps.texts for steps in signal.cut(rollouts)]
            options, calls = signal.checker_options, list(zip(asked, cut, strict=True))
        else:
            options, calls = signal.verifier_options, list(zip(texts, rollouts["answer"].to_pylist(), strict=True))
        (alone,) = in_turns(repeats, lambda: [function(*call, **options) for call in calls])
        return float(alone.processor)
