"""The optimizer steps of a run: planned from the data's index, then built one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pass_ops.support.temporary import temporary_prefix
from trainer.batching import StepBatch, build_step
from trainer.compatibility import open_shaped, sampling_temperature
from trainer.data import RowIndex, Selection, ShapedData, TrainData, build_index, reader_threads, select
from trainer.errors import TrainOptionError
from trainer.loading import rope_limit
from trainer.old_logprobs import recompute_old
from trainer.options import TrainOptions
from trainer.order import Step, all_steps
from trainer.policy import Policy
from trainer.stream import ahead_of_use, stream_steps


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """Which rollouts each step of a run holds. temperature: the one they were sampled at; budget: tokens of a
    micro-batch.
    """

    data: TrainData
    index: RowIndex
    selection: Selection
    steps: list[Step]
    temperature: float
    budget: int


def plan_steps(data: TrainData, policy: Policy, options: TrainOptions, *, temperature: float) -> StepPlan:
    """Index, filters and order of the data. Raises TrainDataError."""
    threads = reader_threads(data, options.decode_threads)
    index = build_index(data, threads=threads, reference=options.kl_coef > 0)
    selection = select(index, options, context=policy.context)
    steps = all_steps(selection.units, options)
    rows_R = selection.units.rows_R
    budget = policy.budget(int(index.length_R[rows_R[~selection.masked_R[rows_R]]].max()))
    if policy.share_prompts and budget != policy.micro_batch_tokens:
        raise TrainOptionError(
            f"share_prompts cannot be used with rollouts longer than {rope_limit(policy.model.config)} tokens, beyond "
            f"which the rope scaling of {policy.folder} depends on their length. Set share_prompts to false."
        )
    return StepPlan(data=data, index=index, selection=selection, steps=steps, temperature=temperature, budget=budget)


def recompute_plan(plan: StepPlan, policy: Policy, options: TrainOptions, *, folder: Path) -> None:
    """Writes the old policy's log-probabilities of every rollout of the plan into a folder (`trainer.old_logprobs`)."""
    wanted_R = np.zeros(len(plan.index), np.bool_)
    wanted_R[plan.selection.units.rows_R] = True
    wanted_R &= ~plan.selection.masked_R
    recompute_old(
        plan.data,
        plan.index,
        wanted_R,
        policy=replace(policy, micro_batch_tokens=plan.budget),
        folder=folder,
        temperature=plan.temperature,
        limit=options.max_mismatch,
    )


def step_batches(
    plan: StepPlan, policy: Policy, options: TrainOptions, *, start: int = 0, old: Path | None = None
) -> Iterator[StepBatch]:
    """The batches of the plan's steps from number `start` on. old: where `recompute_plan` wrote."""
    steps = plan.steps[start:]
    rollouts = stream_steps(
        plan.data,
        plan.index,
        steps,
        reference=options.kl_coef > 0,
        threads=reader_threads(plan.data, options.decode_threads),
        ahead=options.prefetch_steps,
        old=old,
    )
    for step, members in zip(steps, rollouts, strict=True):
        yield build_step(
            members,
            masked=plan.selection.masked_R[step.rows_R].tolist(),
            aggregation=options.aggregation,
            constant=options.aggregation_constant,
            budget=plan.budget,
            pack=policy.pack,
            share_prompts=policy.share_prompts,
            vocabulary_size=policy.vocabulary_size,
            temperature=plan.temperature,
            world=policy.world,
        )


def batches(shaped: Sequence[str], *, policy: Policy, options: TrainOptions) -> Iterator[StepBatch]:
    """The steps `train` would take on these shaped datasets, for a training loop of your own.

    Args:
        shaped: dataset URLs.
        policy: from `load_policy`, with the same options. With old_policy "recompute" its log-probabilities are
            computed when the first batch is asked for.
        options: all but optimizer and saving apply.

    Yields one StepBatch per optimizer step, on the CPU: `micro_batches` to be moved to the policy's device and given to
    `batch_loss`. Reads ahead on a thread; close the iterator when leaving early.

    Raises TrainDataError, PolicyMismatchError and errors of pass_ops.errors.
    """
    sources = open_shaped(shaped)
    temperature = sampling_temperature(sources, options)
    return _batches(plan_steps(ShapedData(sources), policy, options, temperature=temperature), policy, options)


def _batches(plan: StepPlan, policy: Policy, options: TrainOptions) -> Iterator[StepBatch]:
    with TemporaryDirectory(prefix=temporary_prefix()) as folder:
        old = Path(folder) / "old" if options.old_policy == "recompute" else None
        if old is not None:
            recompute_plan(plan, policy, options, folder=old)
        yield from ahead_of_use(step_batches(plan, policy, options, old=old), depth=options.prefetch_steps)
