"""The trainer's data path, from stored shards to micro-batches, against a bare pyarrow read of the same columns.

Both read the same columns of the same parts, once each. The trainer also hashes each file, expands chunks to tokens,
checks lengths and ids, shuffles, and lays every step out as tensors of a padded or packed forward pass. No model takes
part: the batches are made and dropped. The index, read once before the first step, has a line of its own.

The last lines are of a store elsewhere, every request to which takes LATENCY seconds longer, whatever else is under
way: a consumer takes a step's batch and sleeps as long as its tokens take at TOKENS_PER_SECOND. The value is the share
of the time in which it waits for data between the first batch and the end, over the edges of many shuffle windows and
one of two epochs. What comes before, reading the index and waiting for the first batch, is told apart, in seconds.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
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
from trainer.data import INDEX_COLUMNS, REMOTE_READERS, RowIndex, Selection, ShapedData, build_index, select
from trainer.options import TrainOptions, Unit
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
WINDOW = 64 * 1_500  # tokens of a shuffle window of the slow store: 64 parts
#: name -> unit, units of a step: of single rollouts, a window's first steps need a new part for almost each
SLOW_CASES: Mapping[str, tuple[Unit, int]] = {"16 groups a step": ("group", 16), "16 rollouts a step": ("rollout", 16)}
DIGEST = "0" * 64


def lines(folder: Path, *, quick: bool = False) -> Iterator[Line]:
    """Two lines a case, in processor time of all threads, and two of waiting for a slow store, on the clock."""
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
    yield from slow_store(f"memory://bench-{uuid.uuid4().hex}/shaped", parts=20 if quick else 320)


@dataclass(frozen=True)
class Stored:
    """A shaped dataset and the steps made of it."""

    data: ShapedData
    pack: bool
    options: TrainOptions = field(default_factory=lambda: TrainOptions(batch_size=16))
    threads: int = 1

    @property
    def files(self) -> list[str]:
        """Paths of the parts."""
        return [f"{source.url}/{part.data}" for source in self.data.sources for part in source.parts]

    @cached_property
    def index(self) -> RowIndex:
        """Of every row."""
        return build_index(self.data, threads=self.threads)

    @cached_property
    def selection(self) -> Selection:
        """All rows."""
        return select(self.index, self.options, context=2**31)

    @cached_property
    def steps(self) -> list[Step]:
        """Of all epochs."""
        return all_steps(self.selection.units, self.options)

    @property
    def tokens(self) -> int:
        """Prompts and completions of all rollouts."""
        return int(self.index.length_R.sum())

    def batches(self) -> Iterator[StepBatch]:
        """Each step's as it is asked for."""
        streamed = stream_steps(self.data, self.index, self.steps, reference=False, threads=self.threads, ahead=2)
        for step, members in zip(self.steps, streamed, strict=True):
            yield build_step(
                members, masked=self.selection.masked_R[step.rows_R].tolist(), aggregation="rollout_mean",
                constant=None, budget=BUDGET, pack=self.pack, vocabulary_size=VOCABULARY,
            )  # fmt: skip

    def make_steps(self) -> None:
        """Make every batch."""
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


def slow_store(url: str, *, parts: int) -> Iterator[Line]:
    """A line a case: waiting for a store whose requests take LATENCY seconds, beside the same without latency."""
    written = write_shaped(url, parts=parts, tokens=1_000, lengths=(64, 192), chunk=16)
    source = replace(written, store=Store(url, lambda *_: time.sleep(LATENCY)))
    for name, (unit, batch_size) in SLOW_CASES.items():
        options = TrainOptions(unit=unit, batch_size=batch_size, shuffle_tokens=WINDOW, epochs=2)
        slow, at_once = (consumed(ShapedData((it,)), options) for it in (source, written))
        yield line(
            f"train: waiting for data, slow store, {name}, wall", value=100 * slow.share, unit="% of the time",
            against=f"{WAIT_LIMIT:.0%}; without latency {at_once.share:.2%}", ratio=slow.share / WAIT_LIMIT, limit=1.0,
            index_s=round(slow.index, 2), first_batch_s=round(slow.first, 2), then_s=round(slow.rest, 1),
            longest_wait_s=round(slow.longest, 3), with_first_batch=round(slow.share_with_first, 4), latency_s=LATENCY,
            tokens_per_second=round(slow.tokens / slow.rest), tokens=slow.tokens, parts=2 * parts,
            window_parts=WINDOW // 1_500,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Waits:
    """Seconds a consumer of all batches waits: for the index, the first batch, and each one after it.

    tokens, rest: what it consumes from its first batch on, and seconds on the clock.
    """

    index: float
    first: float
    later: Sequence[float]
    tokens: int
    rest: float

    @property
    def share(self) -> float:
        """Of the time from the first batch on, at the rate asked for, however late the machine ends a sleep."""
        return sum(self.later) / (sum(self.later) + self.tokens / TOKENS_PER_SECOND)

    @property
    def share_with_first(self) -> float:
        """The same with the wait for the first batch."""
        waited = self.first + sum(self.later)
        return waited / (waited + self.tokens / TOKENS_PER_SECOND)

    @property
    def longest(self) -> float:
        """Of the waits after the first batch."""
        return max(self.later)


def consumed(data: ShapedData, options: TrainOptions) -> Waits:
    """Take every batch as a trainer does, and sleep for its tokens."""
    stored = Stored(data, pack=True, options=options, threads=max(REMOTE_READERS, options.decode_threads))
    clock = time.perf_counter
    started, steps, planned = clock(), len(stored.steps), clock()
    batches = ahead_of_use(stored.batches(), depth=options.prefetch_steps)
    waits, tokens, received = list[float](), 0, 0.0
    for _ in range(steps):
        asked = clock()
        batch = next(batches)
        waits.append(clock() - asked)
        received = received or clock()
        in_batch = sum(micro.real_tokens for micro in batch.micro_batches)
        tokens += in_batch
        time.sleep(in_batch / TOKENS_PER_SECOND)
    batches.close()
    rest = clock() - received
    return Waits(index=planned - started, first=waits[0], later=waits[1:], tokens=tokens, rest=rest)


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
