"""What is known of a batch of rollouts beyond their tokens: verdicts, and the arm's process signal.

Execution truth is not among the signals: `judge` gives outcome and format, and the truth of steps only to measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.study.arms import Arm
from benchmarks.study.checker import Judged, judge
from benchmarks.study.model import Parameters, Shape
from benchmarks.study.prm import ProcessRewardModel, prm_scores
from benchmarks.study.sample import Completion, Pairs, token_logprobs
from pass_ops import g_opd_scores, opd_scores


@dataclass(frozen=True)
class Models:
    """What the study starts from; policy and teacher are of one shape."""

    policy: Parameters
    teacher: Parameters
    prm: ProcessRewardModel
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


def table(batch: Batch, arm: Arm, level: str, models: Models) -> pa.Table:
    """The columns that the arm's estimator reads, one row a rollout; `pass_ops.shape` takes it as it is."""
    rows = {
        "group_id": [f"{row // batch.copies:05d}" for row in range(len(batch.completions))],
        "loss_mask": [[True] * len(one.ids) for one in batch.completions],
        "outcome_reward": pa.array([float(one.outcome) for one in batch.judged], pa.float32()),
    }
    if arm.form:
        rows["format_reward"] = pa.array([float(one.format_ok) for one in batch.judged], pa.float32())
        rows["format_ok"] = [one.format_ok for one in batch.judged]
    if arm.signal == "prm":
        rows["process_scores"] = _lists(prm_scores(models.prm, batch.pairs, level=level))
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
