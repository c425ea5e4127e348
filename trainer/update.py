"""One optimizer step: forward and backward of a micro-batch, the checks that stop a run, the update.

Dimensions: _N tokens with a loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.batching import MicroBatch, StepBatch
from trainer.errors import ExplodedTrainingError, NonFiniteTrainingError
from trainer.losses import Metrics, policy_loss
from trainer.options import TrainOptions
from trainer.policy import Policy, TokenOutputs

SHOWN_IDS = 8
KEPT = "The last good state is kept; look at these rollouts"


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW in one fused kernel."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=options.lr,
        betas=options.betas,
        eps=options.adam_eps,
        weight_decay=options.weight_decay,
        fused=True,
    )


def learning_rate(updates: int, options: TrainOptions) -> float:
    """The rate lr * min(1, (updates + 1) / warmup_steps), after `updates` steps over all rounds."""
    return options.lr * min(1.0, (updates + 1) / max(options.warmup_steps, 1))


def backward(policy: Policy, batch: MicroBatch, *, options: TrainOptions, temperature: float) -> Metrics:
    """Adds a micro-batch's share of the step's gradient; returns its metrics (`trainer.losses`).

    Raises NonFiniteTrainingError that names the rollouts where a log-probability or the loss is not finite,
    ExplodedTrainingError those with a ratio above stop_ratio.
    """
    if not len(batch.targets_N):
        return {}
    outputs = policy.token_outputs(batch, temperature=temperature)
    bad_N = ~torch.isfinite(outputs.logprobs_N) | ~torch.isfinite(outputs.logprobs_t1_N)
    if bad_N.any():
        raise _non_finite(
            "a log-probability of the policy", _ids(batch, bad_N), hint="Its weights or inputs are broken."
        )
    loss, metrics = _loss(outputs, batch, options)
    if not torch.isfinite(loss):
        rows = [r for r in range(len(batch.rollout_ids)) if not _loss(outputs, batch, options, r)[0].isfinite()]
        ids = tuple(batch.rollout_ids[r] for r in rows)
        raise _non_finite("the loss", ids, hint="The ratio to the sampler exploded.")
    _check_ratio(batch, metrics["log_ratio_N"], options.stop_ratio)
    loss.backward()
    return metrics | {"entropy": outputs.entropy_N.detach().sum()}


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
    norm = float(nn.utils.clip_grad_norm_(policy.model.parameters(), options.grad_clip or math.inf))
    if not norm <= options.stop_grad_norm:
        optimizer.zero_grad(set_to_none=True)
        norms = {k: v for m in batch.micro_batches for k, v in _gradient_norms(policy, m, options, temperature).items()}
        _stop_for_gradient(norm, norms, options.stop_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _stop_for_gradient(norm: float, norms: dict[str, float], limit: float) -> None:
    broken = tuple(rollout for rollout, value in norms.items() if not math.isfinite(value))
    if not math.isfinite(norm):
        raise _non_finite("the gradient norm", broken or tuple(norms), hint="No weight was changed by this step.")
    largest = tuple(sorted(norms, key=lambda rollout: -norms[rollout])[:SHOWN_IDS])
    raise ExplodedTrainingError(
        f"Training stopped: the gradient norm is {norm:.3g}, above stop_grad_norm {limit:g}; the largest shares are "
        f"those of rollouts {_shown(largest)}. {KEPT}, lower lr, drop them, or raise stop_grad_norm.",
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
        outputs.entropy_N[tokens],
        behavior_N=batch.behavior_N[tokens],
        old_N=None if batch.old_N is None else batch.old_N[tokens],
        advantages_N=batch.advantages_N[tokens],
        reference_N=None if batch.reference_N is None else batch.reference_N[tokens],
        weights_N=batch.weights_N[tokens],
        rows_N=batch.rows_N[tokens],
        options=options,
    )


def _gradient_norms(policy: Policy, batch: MicroBatch, options: TrainOptions, temperature: float) -> dict[str, float]:
    """The norm of each rollout's own gradient; one backward pass each, so only for a run that stops anyway."""
    if not len(batch.targets_N):
        return {}
    batch = batch.to(policy.device)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    outputs = policy.token_outputs(batch, temperature=temperature)
    found = {}
    for row, rollout_id in enumerate(batch.rollout_ids):
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
