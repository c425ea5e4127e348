"""Real policy gradients of several shapings of the same rollouts, by the trainer's own filters, batches and loss.

Legend: _N completion tokens of the sample, end to end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_array, list_lengths, list_values, offsets
from pass_ops.shards import CompleteDataset
from pass_ops.support.temporary import temporary_prefix
from pipelines.models.folder import describe_model
from pipelines.models.source import local_model
from trainer.compatibility import check_data_and_policy, check_sampling
from trainer.data import TrainData
from trainer.options import TrainOptions

if TYPE_CHECKING:
    from torch import Tensor

    from trainer import Policy

#: what the trainer reads of the rollouts beside what shaping reads
COLUMNS = ("prompt_token_ids", "behavior_logprobs")


@dataclass(frozen=True, kw_only=True)
class GradientResult:
    """One setting's policy gradient on the sample, at the weights of the policy folder.

    norm: of the gradient of the trainer's loss over the sample as one step. cosine_reference: with the gradient of the
    reference setting; cosine_truth: with that of A* in place of the advantages, where a truth is given. None where a
    gradient is 0.
    """

    groups: int
    rollouts: int
    norm: float
    cosine_reference: float | None
    cosine_truth: float | None


@dataclass(frozen=True)
class SampleData(TrainData):
    """A sample in memory, as the trainer reads data (`trainer.data.TrainData`)."""

    table: pa.Table

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """One part of one source."""
        return ((0, 0),)

    @property
    def digests(self) -> list[str]:
        """None: nothing is resumed."""
        return []

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:  # noqa: ARG002 - the protocol's
        """Some columns."""
        return self.table.select(list(columns))

    def rows(self, part: int) -> int:  # noqa: ARG002 - the protocol's
        """Of the table."""
        return int(self.table.num_rows)

    def describe(self, part: int) -> str:  # noqa: ARG002 - the protocol's
        """Where the rows are."""
        return "the sample of stored groups"


def gradient_options(options: TrainOptions) -> TrainOptions:
    """The training's own options, for one step over the sample without KL penalty and entropy bonus.

    These two are left out because they are the same in every setting, so that they would hide the differences; the
    length of rounds does not matter in one round.
    """
    return replace(
        options, batch_size=None, updates=1, epochs=1, kl_coef=0.0, entropy_coef=0.0, min_round=None, cpu_offload=False
    )


def compare_gradients(
    shaped: Sequence[pa.Table],
    truth: pa.Table | None,
    *,
    policy: Policy,
    options: TrainOptions,
    temperature: float,
) -> list[GradientResult]:
    """The gradient of each shaped sample, the first being the reference, and its cosines.

    Three gradients are held at a time, in the host's memory and in float32, however many settings there are.

    Args:
        shaped: the sample under each setting: columns of `COLUMNS` and of `shape`'s result.
        truth: the sample with A* in the place of the advantages (`with_token_advantages`).
        policy: from `trainer.load_policy`, with the same options.
        options: see `gradient_options`.
        temperature: the rollouts were sampled at.

    Raises TrainDataError, NonFiniteTrainingError and TrainingStoppedError as training would.
    """
    goal = None if truth is None else policy_gradient(truth, policy, options, temperature=temperature)
    reference: list[Tensor] | None = None
    results = []
    for table in shaped:
        gradient = policy_gradient(table, policy, options, temperature=temperature)
        reference = gradient if reference is None else reference
        results.append(
            GradientResult(
                groups=len(table["group_id"].unique()),
                rollouts=int(table["trainable"].to_numpy().sum()),
                norm=math.sqrt(_dot(gradient, gradient)),
                cosine_reference=cosine(gradient, reference),
                cosine_truth=None if goal is None else cosine(gradient, goal),
            )
        )
    return results


def policy_gradient(table: pa.Table, policy: Policy, options: TrainOptions, *, temperature: float) -> list[Tensor]:
    """The gradient of the trainer's loss over the whole table as one step: one tensor a trained parameter, float32, on
    the CPU. All zeros where no trainable rollout has an advantage.
    """
    import torch

    from trainer.distributed import whole
    from trainer.update import backward

    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    data = SampleData(_with_round(table))
    for micro in _micro_batches(data, policy, options, temperature=temperature):
        backward(policy, micro.to(policy.device), options=options)
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        zeros = torch.zeros(parameter.shape, dtype=torch.float32)
        found.append(zeros if gradient is None else whole(gradient).detach().to("cpu", torch.float32, copy=True))
        parameter.grad = None
    return found


def _micro_batches(data: TrainData, policy: Policy, options: TrainOptions, *, temperature: float) -> Iterator[Any]:
    """The micro-batches of the one step that the trainer would make of the sample; none where nothing has a value."""
    from trainer.steps import plan_steps, recompute_plan, step_batches

    table = data.read(0, ("trainable", "chunk_advantages"))
    live = table.filter(table["trainable"])
    if not np.any(list_values(live["chunk_advantages"])):
        return
    plan = plan_steps(data, policy, options, temperature=temperature)
    with ExitStack() as held:
        old: Path | None = None
        if options.old_policy == "recompute":
            old = Path(held.enter_context(TemporaryDirectory(prefix=temporary_prefix()))) / "old"
            recompute_plan(plan, policy, options, folder=old)
        for batch in step_batches(plan, policy, options, old=old):
            yield from batch.micro_batches


def with_token_advantages(
    table: pa.Table, advantage_N: NDArray[np.float64], trainable_R: NDArray[np.bool_]
) -> pa.Table:
    """The table with these token advantages, each token a chunk, as the trainer reads them."""
    lengths_R = list_lengths(table["loss_mask"])
    starts_R1 = offsets(lengths_R)
    ends_N = np.arange(len(advantage_N)) - np.repeat(starts_R1[:-1], lengths_R) + 1
    counting = np.bincount(
        np.repeat(np.arange(len(table)), lengths_R), weights=list_values(table["loss_mask"]), minlength=len(table)
    )
    made = {
        "chunk_ends": list_array(starts_R1, ends_N.astype(np.int32)),
        "chunk_advantages": list_array(starts_R1, advantage_N.astype(np.float32)),
        "trainable": pa.array(trainable_R & (counting > 0)),
    }
    kept = table.drop_columns([name for name in made if name in table.column_names])
    for name, column in made.items():
        kept = kept.append_column(name, column)
    return kept


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float | None:
    """The cosine of two gradients, in float64; None where one is 0."""
    size = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    return max(-1.0, min(1.0, _dot(a, b) / size)) if size > 0.0 else None


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.fsum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def _with_round(table: pa.Table) -> pa.Table:
    """Every rollout as one of the present round, which the trainer's index asks for."""
    kept = table.drop_columns(["round"]) if "round" in table.column_names else table
    return kept.append_column("round", pa.repeat(pa.scalar(0, pa.int32()), len(kept)))


def load_for_gradients(folder: str, rollouts: CompleteDataset, options: TrainOptions) -> tuple[Policy, float]:
    """The policy of a folder, and the temperature that the rollouts were sampled at.

    Raises, before weights are read, what training on these rollouts would: PolicyMismatchError for a policy of another
    vocabulary, or, unless train.off_policy is "accept", another policy than the one that sampled; TrainDataError for
    log-probabilities that give no ratio. Then what `trainer.load_policy` raises.
    """
    from trainer import load_policy

    facts = describe_model(folder)
    check_data_and_policy([rollouts], options=options, policy_digest=facts.digest, vocabulary=asdict(facts.vocabulary))
    temperature = check_sampling(rollouts.spec.carried.get("sampling"), options, where=rollouts.url)
    return load_policy(local_model(folder), options), temperature
