"""One optimizer step: forward and backward of a micro-batch, the checks that stop a run, the update.

Dimensions: _N tokens with a loss.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pass_ops.support.extras import require
from trainer.batching import MicroBatch, StepBatch
from trainer.distributed import whole
from trainer.errors import NonFiniteTrainingError, TrainingStoppedError
from trainer.losses import LossInputs, Metrics, policy_loss
from trainer.options import TrainOptions
from trainer.policy import Policy, TokenOutputs

SHOWN_IDS = 8
KEPT = "The last good state is kept; look at these rollouts"


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW over the trained parameters: in one fused kernel, or torchao's with 8-bit state, which rounds bfloat16
    weights stochastically.

    Raises MissingExtraError for adamw_8bit without torchao.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    given: dict[str, Any] = {"lr": options.lr, "betas": options.betas, "eps": options.adam_eps}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **given, weight_decay=options.weight_decay, fused=True)
    torchao = require("torchao.optim", "train.optimizer 'adamw_8bit' (or set 'adamw')")
    given["bf16_stochastic_round"] = options.weights_dtype == "bfloat16"
    return torchao.AdamW8bit(parameters, **given, weight_decay=options.weight_decay)  # type: ignore[no-any-return]


def learning_rate(updates: int, options: TrainOptions, *, step: int, steps: int) -> float:
    """The rate of the next update, after `updates` over all rounds, of which `step` of `steps` in this call.

    lr * min(1, (updates + 1) / warmup_steps, (steps - step) / (decay_share * steps)).
    """
    warm = (updates + 1) / max(options.warmup_steps, 1)
    left = (steps - step) / max(options.decay_share * steps, 1)
    return options.lr * min(1.0, warm, left)


def batch_loss(policy: Policy, batch: MicroBatch, *, options: TrainOptions) -> tuple[Tensor, Metrics]:
    """A micro-batch's share of the step's loss, with its graph, and its metrics (`trainer.losses`).

    The losses of a step's micro-batches add up to the step's loss. The batch must be on the policy's device.
    """
    loss, metrics, _ = _forward(policy, batch, options)
    return loss, metrics


def backward(policy: Policy, batch: MicroBatch, *, options: TrainOptions) -> Metrics:
    """Adds the gradient of `batch_loss` to the policy's and checks the values; returns the metrics.

    Raises NonFiniteTrainingError where a log-probability or the loss is not finite, TrainingStoppedError where a ratio
    exceeds stop_ratio, naming the rollouts; both after the backward pass, in which all ranks take part.
    """
    loss, metrics, outputs = _forward(policy, batch, options)
    loss.backward()
    if metrics:
        _check_finite(batch, outputs, loss, options)
    if "log_ratio_N" in metrics:
        _check_ratio(batch, metrics["log_ratio_N"], options.stop_ratio)
    return metrics


def _forward(policy: Policy, batch: MicroBatch, options: TrainOptions) -> tuple[Tensor, Metrics, TokenOutputs]:
    outputs = policy.token_outputs(batch)
    if not len(batch.targets_N):  # filler: a pass that keeps this rank in step with the others
        return outputs.logprobs_N.sum(), {}, outputs
    loss, metrics = policy_loss(_inputs(outputs, batch), options)
    if outputs.entropy_N is not None:
        metrics |= {"entropy": outputs.entropy_N.detach().sum()}
    return loss, metrics, outputs


def _inputs(outputs: TokenOutputs, batch: MicroBatch) -> LossInputs:
    return LossInputs(
        **vars(outputs),
        behavior_N=batch.behavior_N,
        old_N=batch.old_N,
        advantages_N=batch.advantages_N,
        reference_N=batch.reference_N,
        weights_N=batch.weights_N,
        rows_N=batch.rows_N,
    )


@torch.no_grad()
def _check_finite(batch: MicroBatch, outputs: TokenOutputs, loss: Tensor, options: TrainOptions) -> None:
    bad_N = ~torch.isfinite(outputs.logprobs_N) | ~torch.isfinite(outputs.logprobs_t1_N)
    if bad_N.any():
        raise _non_finite(
            "a log-probability of the policy", _ids(batch, bad_N), hint="Its weights or inputs are broken."
        )
    if not torch.isfinite(loss):
        inputs = _inputs(outputs, batch)
        losses = [policy_loss(inputs.of_rollout(row), options)[0] for row in range(len(batch.rollout_ids))]
        ids = tuple(name for name, value in zip(batch.rollout_ids, losses, strict=True) if not value.isfinite())
        raise _non_finite("the loss", ids, hint="The ratio to the sampler exploded.")


def _check_ratio(batch: MicroBatch, log_ratio_N: Tensor, limit: float) -> None:
    beyond_N = (log_ratio_N > math.log(limit)) & (batch.advantages_N != 0)
    if beyond_N.any():
        raise TrainingStoppedError(
            f"Training stopped: the ratio to the old policy is {log_ratio_N[beyond_N].max().exp():.3g} in rollouts "
            f"{_shown(_ids(batch, beyond_N))}, above stop_ratio {limit:g}. {KEPT}, lower lr or the number of "
            "updates, or raise stop_ratio.",
            rollout_ids=_ids(batch, beyond_N),
        )


def apply_gradients(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: StepBatch,
    *,
    rate: float,
    options: TrainOptions,
) -> float:
    """Clips the accumulated gradient to grad_clip (0 = never), updates with learning rate `rate` and clears the
    gradient; returns its norm before clipping.

    Raises NonFiniteTrainingError where the norm is not finite, TrainingStoppedError where it exceeds stop_grad_norm,
    naming the rollouts with the largest gradients; weights and optimizer state are then unchanged.
    """
    norm = float(whole(nn.utils.clip_grad_norm_(policy.model.parameters(), options.grad_clip or math.inf)))
    if not norm <= options.stop_grad_norm:
        optimizer.zero_grad(set_to_none=True)
        norms = _gradient_norms(policy, batch, options)
        _stop_for_gradient(norm, norms, batch.rollout_ids, options.stop_grad_norm)
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's compiled step reads it from there
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _stop_for_gradient(norm: float, norms: dict[str, float], step_ids: tuple[str, ...], limit: float) -> None:
    broken = tuple(rollout for rollout, value in norms.items() if not math.isfinite(value))
    if not math.isfinite(norm):
        raise _non_finite("the gradient norm", broken or step_ids, hint="No weight was changed by this step.")
    largest = tuple(sorted(norms, key=lambda rollout: -norms[rollout])[:SHOWN_IDS]) or step_ids
    raise TrainingStoppedError(
        f"Training stopped: the gradient norm is {norm:.3g}, above stop_grad_norm {limit:g}; the largest gradients are "
        f"those of rollouts {_shown(largest)}. {KEPT}, lower lr, drop them, or raise stop_grad_norm.",
        rollout_ids=largest,
    )


def _gradient_norms(policy: Policy, step: StepBatch, options: TrainOptions) -> dict[str, float]:
    """The norm of each rollout's own gradient; one backward pass each, so only for a run that stops anyway.

    Empty where the model is sharded: there a gradient exists only as the sum over ranks.
    """
    found: dict[str, float] = {}
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    for micro in step.micro_batches if policy.world.size == 1 else ():
        batch = micro.to(policy.device)
        inputs = _inputs(policy.token_outputs(batch), batch)
        for row, rollout_id in enumerate(batch.rollout_ids) if len(batch.targets_N) else ():
            loss, _ = policy_loss(inputs.of_rollout(row), options)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            found[rollout_id] = float(nn.utils.get_total_norm([g for g in gradients if g is not None]))
    return found


def _ids(batch: MicroBatch, bad_N: Tensor) -> tuple[str, ...]:
    return tuple(batch.rollout_ids[row] for row in batch.rows_N[bad_N].unique().tolist())


def _shown(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:SHOWN_IDS]) + (f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else "")


def _non_finite(what: str, ids: tuple[str, ...], *, hint: str) -> NonFiniteTrainingError:
    return NonFiniteTrainingError(
        f"Training stopped: {what} is NaN or infinite in rollouts {_shown(ids)}. {hint} {KEPT}, lower lr, or drop "
        "them.",
        rollout_ids=ids,
    )
