"""One cell: some rounds of sampling, signals, credit and updates from the start policy, evaluated on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.study.arms import ARMS, Cell
from benchmarks.study.evaluation import Evaluation, evaluate
from benchmarks.study.model import Parameters
from benchmarks.study.sample import sample
from benchmarks.study.signals import Batch, Models, judged_batch, table
from benchmarks.study.size import TUNING_SEED, Size
from benchmarks.study.tasks import Split, make_tasks
from pass_ops import shape, token_advantages
from trainer import TrainOptions
from trainer.batching import build_step
from trainer.policy import Policy
from trainer.rollouts import Rollout
from trainer.update import apply_gradients, backward, make_optimizer

#: seeds of evaluation: the same in every cell
EVALUATION_SEED = 12345


@dataclass(frozen=True)
class Workshop:
    """What a process keeps from cell to cell: the models, the trainer's policy, and the start policy's evaluation."""

    models: Models
    policy: Policy
    evaluation: Evaluation
    size: Size
    start: dict[str, Any]

    @property
    def parameters(self) -> Parameters:
        """The trained policy's tensors, which the sampler reads."""
        return dict(self.policy.model.named_parameters())

    def reset(self) -> None:
        """Puts the start policy's weights back."""
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                tensor.copy_(self.models.policy[name])


def train_options(lr: float = 1e-3) -> TrainOptions:
    """The trainer's defaults but for what a run of 40 updates on a core needs: no warm-up, a rate of its own."""
    return TrainOptions(lr=lr, warmup_steps=0, device="cpu", tensorboard=False)


Watch = Callable[[int, Batch, pa.Table], None]


def run_cell(cell: Cell, shop: Workshop, watch: Watch = lambda *_: None) -> Iterator[dict[str, Any]]:
    """The cell's rows, one an evaluation point, the start policy's first.

    watch: is shown every round's number, rollouts and signals.
    """
    size, arm, options = shop.size, ARMS[cell.arm], train_options(cell.lr)
    shop.reset()
    optimizer = make_optimizer(shop.policy.model, options)
    tasks = make_tasks(size.rounds * size.prompts, seed=cell.seed, split=Split.ROUNDS)
    generator = torch.Generator().manual_seed(cell.seed)
    began, began_processor = time.monotonic(), time.process_time()
    counts = {"updates": 0, "rollouts": 0, "tokens": 0}
    fixed = {
        "arm": cell.arm, "level": cell.level, "lr": cell.lr, "seed": cell.seed, "tuning": cell.seed >= TUNING_SEED
    }  # fmt: skip

    def row(number: int, figures: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
        seconds = {
            "seconds": time.monotonic() - began,
            "processor_seconds": time.process_time() - began_processor,
        }
        return fixed | {"round": number} | counts | figures | trained | seconds

    yield row(0, shop.start, {})
    for number in range(size.rounds):
        prompts = [task.prompt_ids() for task in tasks[number * size.prompts : (number + 1) * size.prompts]]
        batch = rollouts(shop, prompts, generator)
        signals = table(batch, arm, cell.level, shop.models)
        watch(number, batch, signals)
        shaped = shape(signals, arm.shaping, threads=1)
        trained = update(shop, batch, shaped, optimizer=optimizer, options=options)
        if arm.signal == "none":  # one chunk a rollout, whatever it holds
            trained["chunks"] = None
        counts["updates"] += size.updates
        counts["rollouts"] += len(batch.completions)
        counts["tokens"] += sum(len(one.ids) for one in batch.completions)
        last = number + 1 == size.rounds
        if last or (number + 1) % size.evaluate_every == 0:
            figures = evaluate(shop.parameters, shop.evaluation, seed=EVALUATION_SEED, low_temperature=last)
            yield row(number + 1, figures, trained)


def rollouts(shop: Workshop, prompts: Sequence[Sequence[int]], generator: torch.Generator) -> Batch:
    """A group of rollouts for each prompt, by the policy as it is."""
    completions = sample(
        shop.parameters,
        prompts,
        copies=shop.size.copies,
        shape=shop.models.shape,
        cap=shop.size.cap,
        temperature=1.0,
        generator=generator,
    )
    return judged_batch(prompts, completions, copies=shop.size.copies)


def update(
    shop: Workshop, batch: Batch, shaped: pa.Table, *, optimizer: torch.optim.Optimizer, options: TrainOptions
) -> dict[str, Any]:
    """The round's optimizer steps by the trainer's own functions, and what they were made of."""
    advantages = [row.values.to_numpy() for row in token_advantages(shaped)]
    trainable = shaped["trainable"].to_pylist()
    every = [
        Rollout(
            rollout_id=f"{row:05d}",
            prompt_ids=np.array(prompt, np.int32),
            token_ids_T=np.array(ids, np.int32),
            mask_T=np.ones(len(ids), bool),
            behavior_T=batch.completions[row].logprobs,
            advantages_T=advantages[row],
        )
        for row, (prompt, ids) in enumerate(batch.pairs)
    ]
    norms, clipped, tokens = [], 0.0, 0
    for part in np.array_split(np.arange(len(batch.prompts)), shop.size.updates):
        rows = [group * batch.copies + copy for group in part for copy in range(batch.copies)]
        chosen = [every[row] for row in rows if trainable[row]]
        step = build_step(
            chosen,
            masked=[False] * len(chosen),
            aggregation=options.aggregation,
            constant=None,
            budget=shop.policy.micro_batch_tokens,
            pack=shop.policy.pack,
            vocabulary_size=shop.policy.vocabulary_size,
        )
        for micro in step.micro_batches:
            metrics = backward(shop.policy, micro, options=options)
            clipped += float(metrics["clipped_low"] + metrics["clipped_high"])
        tokens += step.tokens
        norms.append(apply_gradients(shop.policy, optimizer, step, rate=options.lr, options=options))
    values = np.concatenate(advantages)
    return {
        "chunks": float(np.mean([len(ends) for ends in shaped["chunk_ends"].to_pylist()])),
        "advantage_mean": float(values.mean()),
        "advantage_std": float(values.std()),
        "clip_share": clipped / tokens,
        "grad_norm": float(np.mean(norms)),
    }
