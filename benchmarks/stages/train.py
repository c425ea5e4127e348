"""The trainer's data path, from stored shards to micro-batches, against a bare pyarrow read of the same columns.

Both read the same columns of the same parts, once each. The trainer also hashes each file, expands chunks to tokens,
checks lengths and ids, shuffles, and lays every step out as tensors of a padded or packed forward pass. No model takes
part: the batches are made and dropped. The index, read once before the first step, has a line of its own.

The last line is of a store elsewhere, every request to which takes LATENCY seconds longer: a consumer takes a step's
batch and sleeps as long as its tokens take at TOKENS_PER_SECOND. Its value is the share of the time it waits for data.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops import shards
from pass_ops.shards import CompleteDataset, Store
from stages.measure import Line, in_turns, line
from trainer.batching import StepBatch, build_step
from trainer.data import INDEX_COLUMNS, RowIndex, Selection, ShapedData, build_index, reader_threads, select
from trainer.options import TrainOptions
from trainer.order import Step, all_steps
from trainer.stream import TRAIN_COLUMNS, ahead_of_use, stream_steps

#: name -> completion tokens of a rollout (shortest, longest), tokens sharing one credit, whether it is packed
CASES = {
    "long rows, packed": (4_000, 12_000, 16, True),
    "long rows, one credit a token": (4_000, 12_000, 1, False),
    "short rows": (64, 192, 16, False),
    "short rows, packed": (64, 192, 16, True),
}
GROUP, PROMPT, VOCABULARY = 8, 60, 150_000
BUDGET = 16_384  # tokens of a micro-batch
GOAL = 10e6  # tokens per second and core
LATENCY, TOKENS_PER_SECOND, WAIT_LIMIT = 0.05, 50_000, 0.02
DIGEST = "0" * 64


def lines(folder: Path, *, quick: bool = False) -> Iterator[Line]:
    """Two lines a case, in processor time of all threads, and one of waiting for a slow store."""
    parts, tokens, repeats = (2, 300_000, 2) if quick else (6, 1_500_000, 5)
    for name, (shortest, longest, chunk, pack) in CASES.items():
        url = str(folder / name.replace(" ", "-"))
        source = write_shaped(url, parts=parts, tokens=tokens, lengths=(shortest, longest), chunk=chunk)
        stored = Stored(ShapedData((source,)), pack=pack)
        index, bare_index, steps, bare = in_turns(
            repeats, stored.make_index, stored.bare_index, stored.make_steps, stored.bare_steps
        )
        sizes = {"tokens": stored.tokens, "rollouts": len(stored.index), "parts": parts}
        for what, ours, theirs in (("batches", steps, bare), ("index", index, bare_index)):
            yield line(
                f"train: {what}, {name}, processor",
                value=stored.tokens / ours.processor / 1e6, unit="million tokens/s",
                against=f"{GOAL / 1e6:g}; pyarrow alone: {stored.tokens / theirs.processor / 1e6:.1f}",
                ratio=GOAL * ours.processor / stored.tokens, limit=1.0, **sizes,
            )  # fmt: skip
    yield slow_store(f"memory://bench-{uuid.uuid4().hex}/shaped", parts=40 if quick else 800)


@dataclass(frozen=True)
class Stored:
    """A shaped dataset and the steps made of it."""

    data: ShapedData
    pack: bool
    options: TrainOptions = field(default_factory=lambda: TrainOptions(batch_size=16))

    @property
    def files(self) -> list[str]:
        """Paths of the parts."""
        return [f"{source.url}/{part.data}" for source in self.data.sources for part in source.parts]

    @cached_property
    def index(self) -> RowIndex:
        """Of every row."""
        return build_index(self.data, threads=1)

    @cached_property
    def selection(self) -> Selection:
        """All rows."""
        return select(self.index, self.options, context=2**31)

    @cached_property
    def steps(self) -> list[Step]:
        """One epoch's."""
        return all_steps(self.selection.units, self.options)

    @property
    def tokens(self) -> int:
        """Prompts and completions of all rollouts."""
        return int(self.index.length_R.sum())

    def batches(self, *, threads: int = 1) -> Iterator[StepBatch]:
        """Of one epoch, each step's as it is asked for."""
        streamed = stream_steps(self.data, self.index, self.steps, reference=False, threads=threads, ahead=2)
        for step, members in zip(self.steps, streamed, strict=True):
            yield build_step(
                members, masked=self.selection.masked_R[step.rows_R].tolist(), aggregation="rollout_mean",
                constant=None, budget=BUDGET, pack=self.pack, vocabulary_size=VOCABULARY,
            )  # fmt: skip

    def make_steps(self) -> None:
        """Make every batch of an epoch."""
        for _ in self.batches():
            pass

    def make_index(self) -> None:
        """Read the index, with handles that have hashed nothing yet."""
        build_index(ShapedData(tuple(replace(source) for source in self.data.sources)), threads=1)

    def bare_steps(self) -> None:
        """Read what the batches are made of."""
        _read_all(self.files, TRAIN_COLUMNS)

    def bare_index(self) -> None:
        """Read what the index is made of."""
        _read_all(self.files, INDEX_COLUMNS)


def _read_all(files: Sequence[str], columns: Sequence[str]) -> None:
    for file in files:
        pq.read_table(file, columns=list(columns))


def slow_store(url: str, *, parts: int) -> Line:
    """The share of the time in which TOKENS_PER_SECOND wait for a store whose every request takes LATENCY seconds."""
    written = write_shaped(url, parts=parts, tokens=1_000, lengths=(64, 192), chunk=16)
    source = replace(written, store=Store(url, lambda *_: time.sleep(LATENCY)))
    stored = Stored(ShapedData((source,)), pack=True)
    shares = {}
    for threads in (reader_threads(stored.data, 2), 2):
        waited, started, batches = 0.0, time.perf_counter(), ahead_of_use(stored.batches(threads=threads), depth=2)
        for _ in stored.steps:
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            time.sleep(sum(micro.real_tokens for micro in batch.micro_batches) / TOKENS_PER_SECOND)
        shares[threads] = waited / (time.perf_counter() - started)
        batches.close()
    share, of_two = shares.values()
    return line(
        "train: waiting for data, slow store, wall", value=100 * share, unit="% of the time",
        against=f"{WAIT_LIMIT:.0%}; with 2 threads {of_two:.1%}", ratio=share / WAIT_LIMIT, limit=1.0,
        latency_s=LATENCY, tokens_per_second=TOKENS_PER_SECOND, tokens=stored.tokens, parts=parts,
    )  # fmt: skip


def write_shaped(
    url: str, *, parts: int, tokens: int, lengths: tuple[int, int], chunk: int, seed: int = 0
) -> CompleteDataset:
    """A finalized shaped dataset of random rollouts, about `tokens` completion tokens a part, in groups of GROUP.

    lengths: their shortest and longest completion; chunk: tokens sharing one credit.
    """
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "logprobs_mode": "raw_logprobs"}
    carried = {"sampling": sampling, "policy_digest": DIGEST, "round": 0}
    spec = shards.DatasetSpec(stage="shape", stage_version=1, options={}, parts=parts, seed=seed, carried=carried)
    dataset = shards.create_dataset(url, spec)
    groups = max(1, round(2 * tokens / sum(lengths) / GROUP))
    for part in range(parts):
        rng = np.random.default_rng([seed, part])
        counts_R = rng.integers(*lengths, groups * GROUP, endpoint=True)
        shards.commit_part(dataset, part, shaped_part(counts_R, chunk=chunk, rng=rng, name=str(part)))
    shards.finalize(dataset)
    return shards.open_dataset(url)


def shaped_part(counts_R: np.ndarray, *, chunk: int, rng: np.random.Generator, name: str) -> pa.Table:
    """Rollouts of so many completion tokens, one in fifty of them masked."""
    rows, tokens = len(counts_R), int(counts_R.sum())
    chunks_R = -(-counts_R // chunk)
    ends_K = chunk * (np.arange(chunks_R.sum()) - np.repeat(np.cumsum(chunks_R) - chunks_R, chunks_R) + 1)
    ends_K = np.minimum(ends_K, np.repeat(counts_R, chunks_R))
    credits = _lists(chunks_R, rng.normal(0, 1, len(ends_K)).astype(np.float32))
    mask_C = rng.random(tokens) > 0.02
    prompts = rng.integers(0, VOCABULARY, (rows // GROUP, PROMPT))
    groups = [f"{name}-{row // GROUP}" for row in range(rows)]
    columns: dict[str, Any] = {
        "group_id": groups,
        "sample_index": np.arange(rows) % GROUP,
        "rollout_id": [f"{group}/{row % GROUP}" for row, group in enumerate(groups)],
        "prompt_token_ids": _lists(np.full(rows, PROMPT), np.repeat(prompts, GROUP, axis=0).ravel().astype(np.int32)),
        "token_ids": _lists(counts_R, rng.integers(0, VOCABULARY, tokens).astype(np.int32)),
        "text": [""] * rows,
        "behavior_logprobs": _lists(counts_R, np.where(mask_C, -rng.exponential(0.3, tokens), 0.0).astype(np.float32)),
        "loss_mask": _lists(counts_R, mask_C),
        "finish_reason": ["stop"] * rows,
        "seed": np.arange(rows),
        "answer": pa.nulls(rows, pa.string()),
        "chunk_ends": _lists(chunks_R, ends_K.astype(np.int32)),
        "chunk_credits": credits,
        "chunk_advantages": credits,
        "path_score": np.zeros(rows, np.float32),
        "trainable": np.ones(rows, np.bool_),
        "policy_digest": [DIGEST] * rows,
        "round": np.zeros(rows, np.int32),
    }
    schema = shards.shaped_schema({})
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _lists(counts_R: np.ndarray, values: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts_R)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values))
