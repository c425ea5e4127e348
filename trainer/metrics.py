"""The numbers written per step.

metrics.jsonl holds one object per step:

| key | meaning |
| --- | --- |
| step, update, epoch | steps done in this call, optimizer steps over all rounds, epoch (from 0) |
| loss, policy_loss | what was minimized; its surrogate part |
| kl | the KL term before its weight, aggregated like the loss; null without a KL term |
| clip_low, clip_high | share of tokens clipped below (advantage below 0) and above (advantage above 0) |
| ratio_mean, ratio_min, ratio_p01, ratio_p50, ratio_p99, ratio_max | of exp(logprob - old logprob), over tokens |
| mismatch | mean over tokens of exp(abs(old - behaviour logprob)), 1 = none; null where old is the behaviour |
| importance_mean, importance_max | of the importance weights, over tokens; null without them |
| rejected | share of tokens rejected by their ratio to the sampler |
| behavior_kl | mean over tokens of r - 1 - log r: how far the policy is from the sampler (k3) |
| entropy | mean over tokens, at the sampling temperature, nats; null with head fused, and where no token has a loss |
| advantage_mean, and _min, _p05, _p50, _p95, _max | over tokens |
| grad_norm, lr | global norm before clipping; learning rate |
| rollouts, tokens | the denominators: rollouts of the step, their unmasked tokens |
| dropped_tokens | tokens dropped because a stored log-probability is not finite |
| masked_rollouts | rollouts masked for their length |
| fed_tokens, padding | tokens of the forward passes (prompts and padding included), share that is padding |
| seconds, data_wait | duration of the step; the part of it spent waiting for data |
| tokens_per_second | fed tokens per second, padding excluded |
| mfu | model FLOPs utilization (`trainer.flops`); null where the device's peak is unknown |

TensorBoard and a tracker get the same numbers under `train/`, at `update`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.batching import MicroBatch, StepBatch
from trainer.distributed import World
from trainer.records import read_metrics
from trainer.summary import summarize

__all__ = ["StepMetrics", "describe_step", "read_metrics", "summarize"]

RATIO_QUANTILES = {"min": 0.0, "p01": 0.01, "p50": 0.5, "p99": 0.99, "max": 1.0}
ADVANTAGE_QUANTILES = {"min": 0.0, "p05": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
NOTABLE_WAIT = 0.01


class StepMetrics:
    """Collects the metrics of a step's micro-batches; everything stays on the device until `finish`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._values: dict[str, list[Tensor]] = {}
        self._fed = 0
        self._real = 0

    def add(self, batch: MicroBatch, values: Mapping[str, Tensor]) -> None:
        """Adds a micro-batch: sums over its tokens, or one value per token where a name ends in _N."""
        for name, value in (*values.items(), ("advantages_N", batch.advantages_N)):
            if name.endswith("_N"):
                self._values.setdefault(name, []).append(value)
            else:
                self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        self._fed += batch.fed_tokens
        self._real += batch.real_tokens

    def gathered(self, world: World) -> StepMetrics:
        """The metrics of all ranks together."""
        if world.size == 1:
            return self
        everything = StepMetrics()
        values = {name: [value.cpu() for value in parts] for name, parts in self._values.items()}
        sums = {name: value.cpu() for name, value in self._sums.items()}
        for other_sums, other_values, fed, real in world.gather((sums, values, self._fed, self._real)):
            for name, value in other_sums.items():
                everything._sums[name] = everything._sums.get(name, torch.zeros(())) + value
            for name, parts in other_values.items():
                everything._values.setdefault(name, []).extend(parts)
            everything._fed += fed
            everything._real += real
        return everything

    def finish(
        self, batch: StepBatch, *, seconds: float, data_wait: float, token_share: float | None = None
    ) -> dict[str, Any]:
        """The step's numbers under the keys of this module's table, except the optimizer's.

        token_share: the share of the peak that one token per second uses (`trainer.flops.token_share`), if known.
        """
        sums = {name: float(value) for name, value in self._sums.items()}
        values = {name: torch.cat(parts).to("cpu", torch.float64).numpy() for name, parts in self._values.items()}
        none_N = np.zeros(0)
        ratio_N = np.exp(values.get("log_ratio_N", none_N))
        log_behavior_N = values.get("log_behavior_N", none_N)
        importance_N = values.get("importance_N", none_N)
        tokens = max(len(values.get("advantages_N", none_N)), 1)
        return {
            "loss": sums.get("loss", 0.0),
            "policy_loss": sums.get("policy_loss", 0.0),
            "kl": sums.get("kl"),
            "clip_low": sums.get("clipped_low", 0.0) / tokens,
            "clip_high": sums.get("clipped_high", 0.0) / tokens,
            **_quantiles("ratio", ratio_N, RATIO_QUANTILES),
            "mismatch": _mean(np.exp(np.abs(values.get("log_mismatch_N", none_N)))),
            "importance_mean": _mean(importance_N),
            "importance_max": float(importance_N.max()) if len(importance_N) else None,
            "rejected": sums.get("rejected", 0.0) / tokens,
            "behavior_kl": _mean(np.expm1(log_behavior_N) - log_behavior_N),
            "entropy": sums["entropy"] / tokens if "entropy" in sums else None,
            **_quantiles("advantage", values.get("advantages_N", none_N), ADVANTAGE_QUANTILES),
            "rollouts": batch.rollouts,
            "tokens": batch.tokens,
            "dropped_tokens": batch.dropped_tokens,
            "masked_rollouts": batch.masked_rollouts,
            "fed_tokens": self._fed,
            "padding": 1.0 - self._real / self._fed if self._fed else 0.0,
            "seconds": seconds,
            "data_wait": data_wait,
            "tokens_per_second": self._real / seconds,
            "mfu": None if token_share is None else token_share * self._real / seconds,
        }


def _mean(values_N: NDArray[np.float64]) -> float | None:
    return float(values_N.mean()) if len(values_N) else None


def _quantiles(name: str, values_N: NDArray[np.float64], wanted: Mapping[str, float]) -> dict[str, float | None]:
    if not len(values_N):
        return {f"{name}_{key}": None for key in ("mean", *wanted)}
    found = np.quantile(values_N, list(wanted.values()))
    return {
        f"{name}_mean": float(values_N.mean()),
        **{f"{name}_{k}": float(v) for k, v in zip(wanted, found, strict=True)},
    }


def describe_step(line: Mapping[str, Any], steps: int) -> str:
    """One line for people, without what is absent or 0."""
    parts = [f"step {line['step']}/{steps}", f"loss {line['loss']:+.4f}"]
    parts += [f"kl {line['kl']:.4f}"] if line["kl"] is not None else []
    parts += [f"ratio {line['ratio_p01']:.3f} to {line['ratio_p99']:.3f}"] if line["ratio_p01"] is not None else []
    parts += [f"clipped {line['clip_low'] + line['clip_high']:.1%}"]
    parts += [f"rejected {line['rejected']:.1%}"] if line["rejected"] else []
    parts += [f"entropy {line['entropy']:.3f}"] if line["entropy"] is not None else []
    parts += [f"grad {line['grad_norm']:.3f}", f"lr {line['lr']:.1e}"]
    parts += [f"{line['tokens_per_second']:,.0f} tokens/s"]
    parts += [f"MFU {line['mfu']:.0%}"] if line["mfu"] is not None else []
    wait = line["data_wait"] / line["seconds"] if line["seconds"] else 0.0
    return "  ".join([*parts, f"waited {wait:.0%} for data"] if wait >= NOTABLE_WAIT else parts)
