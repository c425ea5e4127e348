"""SkyRL: the advantage estimator "pass", and a trainer that brings it what the rewards cannot hold.

SkyRL hands an advantage estimator one number for each token. The other streams travel beside it: a generator puts
`passrl_integrations.carried.streams(...)` of each rollout into its output, as the list "pass_streams", and the trainer
of `pass_trainer` keeps them with the batch and lays them where the estimator finds them. With
trainer.algorithm.advantage_estimator=pass:

    class Experiment(BasePPOExp):
        def get_trainer(self, **given):
            return pass_trainer(ShapingConfig(weights=Weights(format=0.0)))(**given)

The synchronous trainer, whole trajectories (not step_wise_trajectories), and no filter that drops rollouts between
generation and training: the asynchronous trainer joins generators' outputs by their known keys and loses this one,
which is an error here.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from pass_ops.errors import MissingColumnError
from pass_ops.options.config import ShapingConfig
from passrl_integrations.carried import Carried, advantages_of
from passrl_integrations.steps import left_aligned, right_aligned
from passrl_integrations.versions import require

VERSION = require("skyrl")

from skyrl.backends.skyrl_train.utils.ppo_utils import register_advantage_estimator  # noqa: E402 - a known release
from skyrl.train.trainer import RayPPOTrainer  # noqa: E402

NAME = "pass"
CARRIED = "pass_streams"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What lies beside the rewards of a batch: its streams, and the mask without tools' output, [B, T]."""

    streams: list[Any]
    loss_mask: torch.Tensor
    shaping: ShapingConfig


_BESIDE: ContextVar[Beside | None] = ContextVar("passrl_beside_the_rewards", default=None)


@register_advantage_estimator(NAME)
def pass_advantages(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, advantages), each [B, T], responses on the right as everywhere in SkyRL.

    The outcome is the sum of a row's rewards, so that a KL penalty in the reward counts.

    Raises:
        MissingColumnError: the trainer is not one of `pass_trainer`, or the generator's output has no streams.
    """
    found = _BESIDE.get()
    if found is None:
        raise MissingColumnError(
            "the estimator 'pass' needs what passrl_integrations.skyrl.pass_trainer keeps beside the rewards; "
            "return its trainer from get_trainer of your BasePPOExp"
        )
    lengths = response_mask.sum(dim=1).long()
    rows = len(response_mask)
    carried = Carried(streams=[*found.streams, *[None] * (rows - len(found.streams))], lengths=lengths.tolist())
    advantages = advantages_of(
        token_level_rewards.float().sum(dim=-1), carried, group_index=list(index), shaping=found.shaping,
        mask=left_aligned(found.loss_mask, lengths),
    )  # fmt: skip
    advantages = right_aligned(advantages, lengths)
    return advantages, advantages


def pass_trainer(shaping: ShapingConfig, base: type[Any] = RayPPOTrainer) -> type[Any]:
    """A subclass of SkyRL's trainer, or of yours, for the estimator "pass" with these options."""

    class PassTrainer(base):  # type: ignore[misc]
        def convert_to_training_input(self, generator_output: Any, uids: list[str]) -> Any:
            found = super().convert_to_training_input(generator_output, uids)
            found.metadata[CARRIED] = generator_output.get(CARRIED)
            return found

        def compute_advantages_and_returns(self, data: Any) -> Any:
            streams = data.metadata.get(CARRIED)
            if streams is None:
                raise MissingColumnError(
                    f"the generator's output has no {CARRIED!r}, one entry a rollout; make them with "
                    "passrl_integrations.carried.streams"
                )
            before = _BESIDE.set(Beside(streams=streams, loss_mask=data["loss_mask"], shaping=shaping))
            try:
                return super().compute_advantages_and_returns(data)
            finally:
                _BESIDE.reset(before)

    return PassTrainer
