"""What a policy can do: the figures of one row of a cell's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.study.model import Parameters, Shape
from benchmarks.study.sample import sample, token_logprobs
from benchmarks.study.signals import Batch, judged_batch
from pipelines.runs.evaluate import pass_at_k

#: samples an evaluation task, and the k of pass@k
SAMPLES = 8
LOW_TEMPERATURE = 0.3


@dataclass(frozen=True)
class Evaluation:
    """How evaluation is done: the same prompts in the same order in every cell."""

    prompts: Sequence[Sequence[int]]
    teacher: Parameters
    shape: Shape
    cap: int


def evaluate(policy: Parameters, on: Evaluation, *, seed: int, low_temperature: bool) -> dict[str, Any]:
    """Columns of one evaluation point, from `SAMPLES` samples a prompt at temperature 1 and one greedy one.

    teacher_kl is the mean over a quarter of the sampled tokens of log policy - log teacher.
    """
    batch = _draw(policy, on, copies=SAMPLES, temperature=1.0, seed=seed)
    right = np.array([one.outcome for one in batch.judged]).reshape(-1, SAMPLES).sum(axis=1)
    quarter = range(0, len(batch.completions), 4)
    pairs = [batch.pairs[row] for row in quarter]
    own = np.concatenate([batch.completions[row].logprobs for row in quarter])
    teacher = np.concatenate(token_logprobs(on.teacher, pairs, on.shape))
    found = {
        "pass1": float(right.mean() / SAMPLES),
        "pass8": float(pass_at_k(right, SAMPLES, SAMPLES).mean()),
        "correct": right.tolist(),
        "samples": SAMPLES,
        "greedy": _mean_right(_draw(policy, on, copies=1, temperature=0.0, seed=seed)),
        "low_temperature": None,
        "length": float(np.mean([len(one.ids) for one in batch.completions])),
        "truncated": float(np.mean([one.truncated for one in batch.completions])),
        "steps": float(np.mean([len(one.ends) for one in batch.judged])),
        "padding": float(np.mean([sum(one.padding) for one in batch.judged])),
        "entropy": float(np.concatenate([one.entropies for one in batch.completions]).mean()),
        "teacher_kl": float((own - teacher).mean()),
    }
    if low_temperature:
        found["low_temperature"] = _mean_right(_draw(policy, on, copies=1, temperature=LOW_TEMPERATURE, seed=seed))
    return found


def _draw(policy: Parameters, on: Evaluation, *, copies: int, temperature: float, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    completions = sample(
        policy, on.prompts, copies=copies, shape=on.shape, cap=on.cap, temperature=temperature, generator=generator
    )
    return judged_batch(on.prompts, completions, copies=copies)


def _mean_right(batch: Batch) -> float:
    return float(np.mean([one.outcome for one in batch.judged]))
