"""How the study's start models are trained: a schedule, a loop that resumes, and the batches it reads."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.study.alphabet import PAD, VOCABULARY
from benchmarks.study.model import Shape, logits
from benchmarks.study.tasks import Habits, Split, Task, Trace, make_tasks, random_task, write_trace

IGNORED = -100
LOG_EVERY = 50
#: batches that are drawn at a time and cut by length, so that little is padded
DRAWN = 4


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a model learns: warm-up, a plateau, and a linear fall over the last ``decay`` of it."""

    steps: int
    lr: float
    batch: int = 48
    warmup: int = 100
    decay: float = 0.4

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr * min(1.0, (step + 1) / self.warmup, (self.steps - step) / (self.decay * self.steps))


Batch = tuple[Tensor, ...]


def fit(
    parameters: dict[str, Tensor],
    batches: Iterator[Batch],
    loss_of: Callable[[dict[str, Tensor], Batch], Tensor],
    *,
    schedule: Schedule,
    folder: Path,
) -> None:
    """Train ``parameters`` in place; ``folder`` gets a log and the state, from which a killed training goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    for tensor in parameters.values():
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    state, first = folder / "state.pt", 0
    if state.exists():
        kept = torch.load(state)
        first = kept["step"]
        optimizer.load_state_dict(kept["optimizer"])
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(kept["parameters"][name])
    batches = itertools.islice(batches, first, None)
    total, began = 0.0, time.monotonic()
    for step in range(first, schedule.steps):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        loss = loss_of(parameters, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += float(loss.detach())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == schedule.steps:
            line = {
                "step": step + 1,
                "loss": round(total / LOG_EVERY, 5),
                "seconds": round(time.monotonic() - began, 1),
            }
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            total = 0.0
            kept = {"step": step + 1, "optimizer": optimizer.state_dict(), "parameters": parameters}
            torch.save(kept, state.with_suffix(".new"))
            state.with_suffix(".new").rename(state)
    for tensor in parameters.values():
        tensor.requires_grad_(False)


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows padded to the right to one length."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def trace_batches(habits: Habits, *, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of prompts with a trace: ids, and targets that are ignored within the prompt."""
    rng = random.Random(f"traces/{seed}")
    while True:
        drawn = []
        for _ in range(size * DRAWN):
            task = random_task(rng, Split.MODELS)
            drawn.append((task.prompt_ids(), write_trace(task, habits, rng).ids()))
        drawn.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        cut = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        rng.shuffle(cut)
        for pairs in cut:
            ids = padded([prompt + completion for prompt, completion in pairs], PAD)
            targets = padded([[IGNORED] * len(prompt) + completion for prompt, completion in pairs], IGNORED)
            yield ids, targets


def language_loss(parameters: dict[str, Tensor], batch: Batch, *, shape: Shape) -> Tensor:
    """Cross-entropy of completions, the mean over tokens, in nats."""
    ids, targets = batch
    found = logits(parameters, ids, shape)[:, :-1]
    return functional.cross_entropy(found.reshape(-1, VOCABULARY), targets[:, 1:].reshape(-1), ignore_index=IGNORED)


def validation(habits: Habits, *, count: int, seed: int) -> list[tuple[Task, Trace]]:
    """Evaluation tasks with a trace each."""
    rng = random.Random(f"validation/{seed}")
    tasks = make_tasks(count, seed=seed, split=Split.EVALUATION)
    return [(task, write_trace(task, habits, rng)) for task in tasks]


def least_loss(pairs: Sequence[tuple[Task, Trace]]) -> float:
    """The loss of a model that knows the writer's habits exactly, in nats a completion token."""
    return -sum(trace.logprob for _, trace in pairs) / sum(len(trace.ids()) for _, trace in pairs)


@torch.no_grad()
def loss_on(parameters: dict[str, Tensor], pairs: Sequence[tuple[Task, Trace]], shape: Shape) -> float:
    """The model's loss on the same, in nats a completion token."""
    ids = padded([task.prompt_ids() + trace.ids() for task, trace in pairs], PAD)
    targets = padded([[IGNORED] * len(task.prompt_ids()) + trace.ids() for task, trace in pairs], IGNORED)
    return float(language_loss(parameters, (ids, targets), shape=shape))
