"""Supervised training of the demo's models on traces that are written fresh for every batch, so nothing repeats."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.demo.arithmetic import Habits, Split, Trace, make_prompts, random_prompt, write_trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: the label of a token that is not learned from (prompt, padding)
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How long and how fast `fit` learns."""

    steps: int
    learning_rate: float
    batch_size: int = 32
    warmup_steps: int = 100
    decay_share: float = 0.4
    """share of the steps, at the end, over which the learning rate falls linearly to 0"""
    clip: float = 1.0
    validate_every: int = 200


@dataclass(frozen=True)
class Progress:
    """One line of a training log: training loss is the mean since the line before, both in nats a token."""

    step: int
    train_loss: float
    validation_loss: float
    seconds: float


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length: ``input_ids`` int64 [B, T]; ``targets`` [B, T], the loss's own."""

    input_ids: torch.Tensor
    targets: torch.Tensor


def learning_rate_at(step: int, options: FitOptions) -> float:
    """The factor on the learning rate at ``step`` (0-based): linear warm-up, constant, linear decay to 0."""
    warm = (step + 1) / max(1, options.warmup_steps)
    cool = (options.steps - step) / max(1.0, options.steps * options.decay_share)
    return min(1.0, warm, cool)


def fit(
    model: torch.nn.Module,
    batches: Iterator[Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    *,
    validate: Callable[[], float],
    options: FitOptions,
    state: Path,
) -> list[Progress]:
    """Train ``model`` in place with AdamW and return the log.

    ``state`` is written at every validation, and where it exists already training goes on from it: the same ``batches``
    are drawn again and passed over, so the result is that of an uninterrupted run. Raises ValueError where it holds
    the state of other options.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_at(step, options))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    lines = _resume(state, parts, options)
    done = lines[-1].step if lines else 0
    for _ in range(done):
        next(batches)
    losses: list[float] = []
    started = time.monotonic() - (lines[-1].seconds if lines else 0.0)
    for step in range(done + 1, options.steps + 1):
        model.train()
        loss = loss_of(next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        if step % options.validate_every == 0 or step == options.steps:
            train_loss, seconds = sum(losses) / len(losses), time.monotonic() - started
            lines.append(Progress(step, round(train_loss, 5), round(validate(), 5), round(seconds, 1)))
            losses.clear()
            _save(state, parts, options, lines)
    return lines


def _save(state: Path, parts: Mapping[str, Any], options: FitOptions, lines: Sequence[Progress]) -> None:
    """Replace ``state`` in one step, so that a kill leaves the old one or the new one."""
    unfinished = state.with_suffix(".unfinished")
    saved = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**saved, "options": asdict(options), "log": [asdict(line) for line in lines]}, unfinished)
    unfinished.replace(state)


def _resume(state: Path, parts: Mapping[str, Any], options: FitOptions) -> list[Progress]:
    """Load ``state`` into ``parts`` where it exists; returns the log so far."""
    if not state.exists():
        return []
    saved = torch.load(state, weights_only=True)
    if saved["options"] != asdict(options):
        raise ValueError(
            f"{state} is the state of a training with {saved['options']}, not {asdict(options)}: going on from it "
            "would make a model of no recipe; remove the file to start anew"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return [Progress(**line) for line in saved["log"]]


# ---------------------------------------------------------------------------------------------------------------------
# Language models: learn completions of prompts


def trace_batch(pairs: Sequence[tuple[str, Trace]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Prompts and their traces as a batch; the targets are the completion's tokens and the end of text."""
    ids, targets = [], []
    for prompt, trace in pairs:
        prompt_ids = tokenizer(prompt).input_ids
        completion_ids = [*tokenizer(trace.text).input_ids, tokenizer.eos_token_id]
        ids.append([*prompt_ids, *completion_ids])
        targets.append([*([IGNORED] * len(prompt_ids)), *completion_ids])
    return Batch(pad_rows(ids, tokenizer.pad_token_id), pad_rows(targets, IGNORED))


def trace_batches(habits: Habits, tokenizer: PreTrainedTokenizerFast, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of fresh prompts of the assets split, each with a fresh trace.

    Lengths stay mixed within a batch on purpose: batches of one length need a fifth less computation, but the loss
    after 600 steps was then three times as high.
    """
    rng = random.Random(f"traces/{seed}")
    while True:
        prompts = [random_prompt(rng, Split.ASSETS) for _ in range(batch_size)]
        yield trace_batch([(prompt, write_trace(prompt, habits, rng)) for prompt in prompts], tokenizer)


def validation_traces(habits: Habits, *, count: int, seed: int) -> list[tuple[str, Trace]]:
    """Held-out prompts with one trace each."""
    rng = random.Random(f"validation/{seed}")
    return [
        (prompt, write_trace(prompt, habits, rng)) for prompt in make_prompts(count, seed=seed, split=Split.HELD_OUT)
    ]


def least_loss(pairs: Sequence[tuple[str, Trace]]) -> float:
    """The loss of a model that knows the writer's habits exactly, in nats a completion token."""
    return -sum(trace.logprob for _, trace in pairs) / sum(len(trace.text) + 1 for _, trace in pairs)


def language_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the targets, the mean over them, in nats."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.targets[:, 1:].flatten(), ignore_index=IGNORED
    )


def mean_loss(model: torch.nn.Module, loss_of: Callable[[Batch], torch.Tensor], batches: Sequence[Batch]) -> float:
    """The loss over ``batches``, weighted by their targets."""
    model.eval()
    counts = [int((batch.targets != IGNORED).sum()) for batch in batches]
    with torch.no_grad():
        losses = [float(loss_of(batch)) for batch in batches]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


def pad_rows(rows: Sequence[Sequence[float]], filler: float) -> torch.Tensor:
    """Rows as one tensor, filled up on the right; int64 where every number is an int, else float32."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([filler] * (width - len(row)))] for row in rows])
