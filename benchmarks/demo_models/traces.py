"""Traces that the demo's language models learn from, as a file for `trainer.sft`, and the loss on held-out ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines.demo.arithmetic import Habits, Split, Trace, make_prompts, random_prompt, write_trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: rows the trainer reads at a time
ROW_GROUP = 4096


def training_pairs(habits: Habits, *, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` prompts of the assets split, each with a trace."""
    rng = random.Random(f"traces/{seed}")
    prompts = [random_prompt(rng, Split.ASSETS) for _ in range(count)]
    return [(prompt, write_trace(prompt, habits, rng).text) for prompt in prompts]


def write_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Write prompts and traces as `trainer.sft` reads them: Parquet, columns prompt and completion."""
    prompts, completions = zip(*pairs, strict=True)
    table = pa.table({"prompt": prompts, "completion": completions})
    pq.write_table(table, path, row_group_size=ROW_GROUP)


def validation_traces(habits: Habits, *, count: int, seed: int) -> list[tuple[str, Trace]]:
    """Held-out prompts with one trace each."""
    rng = random.Random(f"validation/{seed}")
    return [
        (prompt, write_trace(prompt, habits, rng)) for prompt in make_prompts(count, seed=seed, split=Split.HELD_OUT)
    ]


def least_loss(pairs: Sequence[tuple[str, Trace]]) -> float:
    """The loss of a model that knows the writer's habits exactly, in nats a completion token."""
    return -sum(trace.logprob for _, trace in pairs) / sum(len(trace.text) + 1 for _, trace in pairs)


def completion_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]
) -> float:
    """The cross-entropy of completions and their end of text after their prompts, the mean over tokens, in nats."""
    total, tokens = 0.0, 0
    for prompt, completion in pairs:
        prompt_ids = tokenizer(prompt).input_ids
        completion_ids = torch.tensor([*tokenizer(completion).input_ids, tokenizer.eos_token_id])
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt_ids, *completion_ids]])).logits[0, len(prompt_ids) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, completion_ids, reduction="sum"))
        tokens += len(completion_ids)
    return total / tokens
