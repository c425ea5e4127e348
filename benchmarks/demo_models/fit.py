"""How the demo's models are trained: a recipe's numbers, its log, and a loop for what is no language model (the PRM).

Policy and teacher are trained by `trainer.sft`; both loops share the optimizer and the schedule of the trainer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from trainer import TrainOptions
from trainer.metrics import read_metrics
from trainer.update import learning_rate, make_optimizer

#: the target of a token that is not learned from (prompt, padding)
IGNORED = -100
#: steps a line of the log is about; `fit` saves its state as often
LOG_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How long and how fast a model learns."""

    steps: int
    learning_rate: float
    batch_size: int = 32
    warmup_steps: int = 100
    decay_share: float = 0.4
    """share of the steps, at the end, over which the learning rate falls linearly to 0"""
    clip: float = 1.0


@dataclass(frozen=True)
class Progress:
    """One line of a training log: the mean loss since the line before, in nats a token; seconds since the start."""

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length: ``input_ids`` int64 [B, T]; ``targets`` [B, T], the loss's own."""

    input_ids: torch.Tensor
    targets: torch.Tensor


BatchT = TypeVar("BatchT", bound=Batch)


def train_options(options: FitOptions, *, seed: int) -> TrainOptions:
    """The same in the trainer's words, for supervised training in one epoch; ``seed`` is that of the order."""
    return TrainOptions(
        seed=seed,
        batch_size=options.batch_size,
        loss="next_token",
        aggregation="token_mean",
        lr=options.learning_rate,
        betas=(0.9, 0.98),
        warmup_steps=options.warmup_steps,
        decay_share=options.decay_share,
        grad_clip=options.clip,
        device="cpu",
        tensorboard=False,
    )


def log_of(run: Path) -> list[Progress]:
    """The log of the trainer's run in the folder ``run``."""
    lines = read_metrics(run)
    blocks = [lines[first : first + LOG_EVERY] for first in range(0, len(lines), LOG_EVERY)]
    seconds = itertools.accumulate(sum(line["seconds"] for line in block) for block in blocks)
    return [_line([line["loss"] for line in b], b[-1]["step"], total) for b, total in zip(blocks, seconds, strict=True)]


def fit(
    model: torch.nn.Module,
    batches: Iterator[BatchT],
    loss_of: Callable[[BatchT], torch.Tensor],
    *,
    options: FitOptions,
    state: Path,
) -> list[Progress]:
    """Train ``model`` in place and return the log.

    ``state`` is written with every line of the log, and where it exists already training goes on from it: the same
    ``batches`` are drawn again and passed over, so the result is that of an uninterrupted run. Raises ValueError where
    it holds the state of other options.
    """
    trainer_options = train_options(options, seed=0)
    optimizer = make_optimizer(model, trainer_options)
    parts = {"model": model, "optimizer": optimizer}
    lines = _resume(state, parts, options)
    done = lines[-1].step if lines else 0
    for _ in range(done):
        next(batches)
    losses: list[float] = []
    started = time.monotonic() - (lines[-1].seconds if lines else 0.0)
    model.train()
    for step in range(done, options.steps):
        loss = loss_of(next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, trainer_options, step=step, steps=options.steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == options.steps:
            lines.append(_line(losses, step + 1, time.monotonic() - started))
            losses.clear()
            _save(state, parts, options, lines)
    return lines


def pad_rows(rows: Sequence[Sequence[float]], filler: float) -> torch.Tensor:
    """Rows as one tensor, filled up on the right; int64 where every number is an int, else float32."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([filler] * (width - len(row)))] for row in rows])


def _line(losses: Sequence[float], step: int, seconds: float) -> Progress:
    return Progress(step, round(sum(losses) / len(losses), 5), round(seconds, 1))


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
