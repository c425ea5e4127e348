"""What is known of a batch of rollouts beyond their tokens: verdicts, and the arm's process signal.

Execution truth is not among the signals: `judge` gives outcome and format, and the truth of steps only to measurements.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.study.arms import TASTES, Arm
from benchmarks.study.checker import Judged, judge
from benchmarks.study.model import Parameters, Shape
from benchmarks.study.sample import Completion, Pairs, token_logprobs
from pass_ops import g_opd_scores, opd_scores

#: deviation of the process reward model's noise, which brings its step AUC into 0.80 to 0.90 (levels.json)
NOISE = 0.52


@dataclass(frozen=True)
class Models:
    """What the study starts from; all of one shape."""

    policy: Parameters
    teacher: Parameters
    shape: Shape


@dataclass(frozen=True)
class Batch:
    """Rollouts of whole groups, a group's adjacent, judged."""

    prompts: Sequence[Sequence[int]]
    completions: Sequence[Completion]
    judged: Sequence[Judged]
    copies: int

    @property
    def pairs(self) -> Pairs:
        """Prompt and completion ids of each rollout."""
        return [(self.prompts[row // self.copies], one.ids) for row, one in enumerate(self.completions)]


def judged_batch(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], *, copies: int) -> Batch:
    """The completions with their verdicts."""
    judged = [judge(prompts[row // copies], one.ids) for row, one in enumerate(completions)]
    return Batch(prompts, completions, judged, copies)


def prm_scores(grader: Parameters, pairs: Pairs, judged: Sequence[Judged], shape: Shape) -> list[NDArray[np.float32]]:
    """The process reward model: the probability of each step's least likely token under a trained model, and noise.

    The grader knows nearly every step, so that alone would be too good; normal noise of deviation `NOISE` makes an
    imperfect model of it. It is drawn from the prompt and the completion up to the step's end: the same step in the
    same place always gets the same score, as from a model that errs.
    """
    found = []
    for (prompt, ids), logprobs, one in zip(pairs, token_logprobs(grader, pairs, shape), judged, strict=True):
        starts = (0, *one.ends[:-1])
        least = [float(np.exp(logprobs[start:end].min())) for start, end in zip(starts, one.ends, strict=True)]
        noise = [NOISE * _normal(bytes([*prompt, *ids[:end]])) for end in one.ends]
        found.append(np.array(least, np.float32) + np.array(noise, np.float32))
    return found


def _normal(content: bytes) -> float:
    """A standard normal number decided by the content (Box and Muller)."""
    digest = hashlib.sha256(content).digest()
    first, second = (int.from_bytes(digest[at : at + 6], "big") / 2**48 for at in (0, 6))
    return math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)


def with_taste(
    scores: Sequence[NDArray[np.float32]], judged: Sequence[Judged], taste: float
) -> list[NDArray[np.float32]]:
    """The scores with ``taste`` added at the steps of padding's form."""
    return [
        score + np.float32(taste) * np.array(one.padding, np.float32) for score, one in zip(scores, judged, strict=True)
    ]


def table(batch: Batch, arm: Arm, level: str, models: Models) -> pa.Table:
    """The columns that the arm's estimator reads, one row a rollout; `pass_ops.shape` takes it as it is."""
    rows = {
        "group_id": [f"{row // batch.copies:05d}" for row in range(len(batch.completions))],
        "loss_mask": [[True] * len(one.ids) for one in batch.completions],
        "outcome_reward": pa.array([float(one.outcome) for one in batch.judged], pa.float32()),
        "format_reward": pa.array([float(one.format_ok) for one in batch.judged], pa.float32()),
        "format_ok": [one.format_ok for one in batch.judged],
    }
    if arm.signal == "prm":
        scores = with_taste(
            prm_scores(models.teacher, batch.pairs, batch.judged, models.shape), batch.judged, TASTES[level]
        )
        rows["process_scores"] = pa.array(scores, pa.list_(pa.float32()))
        rows["process_ends"] = pa.array([list(one.ends) for one in batch.judged], pa.list_(pa.int32()))
    elif arm.signal != "none":
        policy = _lists([one.logprobs for one in batch.completions])
        teacher = _lists(token_logprobs(models.teacher, batch.pairs, models.shape))
        if arm.signal == "opd":
            rows["process_scores"] = opd_scores(policy=policy, teacher=teacher)
        else:
            base = _lists(token_logprobs(models.policy, batch.pairs, models.shape))
            rows["process_scores"] = g_opd_scores(policy=policy, teacher=teacher, base=base)
    return pa.table(rows)


def _lists(values: Sequence[NDArray[np.float32]]) -> pa.Array:
    return pa.array(values, pa.list_(pa.float32()))
