"""One optimizer step: forward and backward of a micro-batch, the checks that stop a run, the update.

Dimensions: _N tokens with a loss.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batching import MicroBatch, StepBatch
from trainer.distributed import whole
from trainer.errors import ExplodedTrainingError, NonFiniteTrainingError, TrainOptionError
from trainer.losses import Metrics, policy_loss
from trainer.options import TrainOptions
from trainer.policy import Policy, TokenOutputs

SHOWN_IDS = 8
KEPT = "The last good state is kept; look at these rollouts"


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW over what is trained: in one fused kernel, or torchao's with 8-bit state.

    Raises TrainOptionError for adamw_8bit without torchao.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    given: dict[str, Any] = {"lr": options.lr, "betas": options.betas, "eps": options.adam_eps}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **given, weight_decay=options.weight_decay, fused=True)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise TrainOptionError(
            "optimizer 'adamw_8bit' needs the package torchao; install the extra 'adamw8bit', or set 'adamw'."
        ) from error
    return AdamW8bit(parameters, **given, weight_decay=options.weight_decay)  # type: ignore[no-any-return]


def learning_rate(updates: int, options: TrainOptions, *, step: int, steps: int) -> float:
    """The rate of the update after `updates` over all rounds, of these `step` of the `steps` of this call.

    lr * min(1, (updates + 1) / warmup_steps, (steps - step) / (decay_share * steps)).
    """
    warm = (updates + 1) / max(options.warmup_steps, 1)
    left = (steps - step) / max(options.decay_share * steps, 1)
    return options.lr * min(1.0, warm, left)


def backward(policy: Policy, batch: MicroBatch, *, options: TrainOptions, temperature: float) -> Metrics:
    """Adds a micro-batch's share of the step's gradient; returns its metrics (`trainer.losses`).

    Raises NonFiniteTrainingError that names the rollouts where a log-probability or the loss is not finite,
    ExplodedTrainingError those with a ratio above stop_ratio; both after the backward pass, for which other ranks wait.
    """
    outputs = policy.token_outputs(batch, temperature=temperature)
    if not len(batch.targets_N):  # nothing to learn here, and a pass that other ranks take part in
        outputs.logprobs_N.sum().backward()
        return {}
    loss, metrics = _loss(outputs, batch, options)
    loss.backward()
    _check_finite(batch, outputs, loss, options)
    if "log_ratio_N" in metrics:
        _check_ratio(batch, metrics["log_ratio_N"], options.stop_ratio)
    return metrics if outputs.entropy_N is None else metrics | {"entropy": outputs.entropy_N.detach().sum()}


@torch.no_grad()
def _check_finite(batch: MicroBatch, outputs: TokenOutputs, loss: Tensor, options: TrainOptions) -> None:
    bad_N = ~torch.isfinite(outputs.logprobs_N) | ~torch.isfinite(outputs.logprobs_t1_N)
    if bad_N.any():
        raise _non_finite(
            "a log-probability of the policy", _ids(batch, bad_N), hint="Its weights or inputs are broken."
        )
    if not torch.isfinite(loss):
        rows = [r for r in range(len(batch.rollout_ids)) if not _loss(outputs, batch, options, r)[0].isfinite()]
        ids = tuple(batch.rollout_ids[r] for r in rows)
        raise _non_finite("the loss", ids, hint="The ratio to the sampler exploded.")


def _check_ratio(batch: MicroBatch, log_ratio_N: Tensor, limit: float) -> None:
    beyond_N = (log_ratio_N > math.log(limit)) & (batch.advantages_N != 0)
    if beyond_N.any():
        raise ExplodedTrainingError(
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
    temperature: float,
) -> float:
    """Clips the gathered gradient to grad_clip (0 = off), updates, clears it; returns the norm before clipping.

    Raises NonFiniteTrainingError where the norm is not finite, ExplodedTrainingError where it is above stop_grad_norm,
    after looking for the rollouts it comes from; weights and optimizer state are then untouched.
    """
    norm = float(whole(nn.utils.clip_grad_norm_(policy.model.parameters(), options.grad_clip or math.inf)))
    if not norm <= options.stop_grad_norm:
        optimizer.zero_grad(set_to_none=True)
        norms = _gradient_norms(policy, batch, options, temperature)
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
    raise ExplodedTrainingError(
        f"Training stopped: the gradient norm is {norm:.3g}, above stop_grad_norm {limit:g}; it is that of rollouts "
        f"{_shown(largest)}. {KEPT}, lower lr, drop them, or raise stop_grad_norm.",
        rollout_ids=largest,
    )


def _loss(
    outputs: TokenOutputs, batch: MicroBatch, options: TrainOptions, row: int | None = None
) -> tuple[Tensor, Metrics]:
    """The micro-batch's share of the loss, or of it the share of one rollout."""
    tokens: Tensor | slice = slice(None) if row is None else batch.rows_N == row
    return policy_loss(
        outputs.logprobs_N[tokens],
        outputs.logprobs_t1_N[tokens],
        None if outputs.entropy_N is None else outputs.entropy_N[tokens],
        behavior_N=batch.behavior_N[tokens],
        old_N=None if batch.old_N is None else batch.old_N[tokens],
        advantages_N=batch.advantages_N[tokens],
        reference_N=None if batch.reference_N is None else batch.reference_N[tokens],
        weights_N=batch.weights_N[tokens],
        rows_N=batch.rows_N[tokens],
        options=options,
    )


def _gradient_norms(policy: Policy, step: StepBatch, options: TrainOptions, temperature: float) -> dict[str, float]:
    """The norm of each rollout's own gradient; one backward pass each, so only for a run that stops anyway.

    Empty where the model is sharded: there a gradient exists only as the sum over ranks.
    """
    found: dict[str, float] = {}
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    for micro in step.micro_batches if policy.world.size == 1 else ():
        batch = micro.to(policy.device)
        outputs = policy.token_outputs(batch, temperature=temperature)
        for row, rollout_id in enumerate(batch.rollout_ids) if len(batch.targets_N) else ():
            loss, _ = _loss(outputs, batch, options, row)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            found[rollout_id] = float(nn.utils.get_total_norm([g for g in gradients if g is not None]))
    return found


def _ids(batch: MicroBatch, bad_N: Tensor) -> tuple[str, ...]:
    return tuple(batch.rollout_ids[row] for row in batch.rows_N[bad_N].unique().tolist())


def _shown(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:SHOWN_IDS]) + (f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else "")


def _non_finite(what: str, ids: tuple[str, ...], *, hint: str) -> NonFiniteTrainingError:
    return NonFiniteTrainingError(
        f"Training stopped: {what} is NaN or infinite in rollouts {_shown(ids)}. {hint} {KEPT}, lower lr, or drop them "
        "and go on.",
        rollout_ids=ids,
    )
