"""Checks of the update: speed, memory against the formula, micro-batch sizes, and TRL's update beside ours."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.engines.machine import GIB
from pipelines.gpu_check.base import CheckOptions, Limit, Machine, Result, judged, skipped
from pipelines.gpu_check.machine import installed
from pipelines.gpu_check.models import SHAPES, computed_bytes, model_folder, sizes, whole
from pipelines.gpu_check.workload import Workload, write_order, write_workload
from trainer import TrainOptions, apply_gradients, batch_loss, batches, load_policy, make_optimizer
from trainer.flops import token_share
from trainer.policy import Policy

MEMORY = Limit(low=0.9, high=1.1, speed=True)
# Of the first step's gradient norm, relative; bfloat16 on a GPU.
SAME_GRADIENT = {"cpu": Limit(high=1e-3), "cuda": Limit(high=2e-2)}
PLAIN = {"cuda": "sdpa", "cpu": "eager"}  # attention to hold the default's against
TRL_GOAL = Limit(low=1.5, speed=True)
MICRO_BATCHES = {"cuda": (2048, 4096, 8192, 16384, 32768), "cpu": (256, 512)}
TRL_MICRO = {"cuda": (8, 16), "cpu": (4,)}  # rollouts; TRL is taken at its best
RANK = 16


@dataclass(frozen=True, kw_only=True)
class Update:
    """Measured steps. peak: bytes that the device held at most (on a CPU: the process). norms: before clipping."""

    tokens_per_second: float
    seconds: tuple[float, ...]
    norms: tuple[float, ...]
    peak: int


def check_train(machine: Machine, options: CheckOptions) -> Result:
    """The small model, every weight trained: tokens/s, MFU, peak memory over what the formula says.

    And the same update with another attention, padded: the gradient must be the same.
    """
    name, trained = sizes(machine).small, train_options(machine)
    folder, shaped = model_folder(machine, options, name), write_rollouts(machine, options, name)
    measured, share = _whole_update(folder, shaped, trained)
    other, _ = _whole_update(folder, shaped, replace(trained, attention=PLAIN[machine.device], layout="pad"))
    computed = computed_bytes(name, trained)
    figures: dict[str, Any] = {
        "model": name,
        "tokens_per_second": round(measured.tokens_per_second, 1),
        "peak_gib": round(measured.peak / GIB, 3),
        "computed_gib": round(computed / GIB, 3),
        "memory_ratio": round(measured.peak / computed, 4),
        "padded_tokens_per_second": round(other.tokens_per_second, 1),
        "grad_norm_difference": abs(measured.norms[0] - other.norms[0]) / other.norms[0],
    }
    if share is not None:
        figures["mfu"] = round(share * measured.tokens_per_second, 4)
    limits = {"memory_ratio": MEMORY, "grad_norm_difference": SAME_GRADIENT[machine.device]}
    return judged(machine, figures, limits)


def _whole_update(folder: str, shaped: str, options: TrainOptions) -> tuple[Update, float | None]:
    """The steps, and the share of the device's peak that a token per second is (None: the peak is not known)."""
    policy = load_policy(folder, options)
    measured = measure_update(policy, make_optimizer(policy.model, options), shaped, options)
    return measured, token_share(policy.model, policy.device, policy.scorer.compute_dtype, None)


def check_grid(machine: Machine, options: CheckOptions) -> Result:
    """The large model's adapter by tokens of a micro-batch, as far as the formula says that they fit."""
    name = sizes(machine).large
    trained = replace(train_options(machine), lora_rank=RANK, updates=2)
    if machine.device == "cuda":
        trained = replace(trained, weights_dtype="bfloat16")  # the frozen weights, held once
    shaped = write_rollouts(machine, options, name, steps=2)
    policy = load_policy(model_folder(machine, options, name), trained)
    optimizer = make_optimizer(policy.model, trained)
    figures: dict[str, Any] = {"model": name, "lora_rank": RANK}
    for tokens in MICRO_BATCHES[machine.device]:
        here = replace(trained, micro_batch_tokens=tokens)
        computed = computed_bytes(name, here)
        figures[f"computed_gib_{tokens}"] = round(computed / GIB, 2)
        if machine.device == "cuda" and computed > 0.95 * machine.gpus[0].memory.total:
            continue
        try:
            measured = measure_update(replace(policy, micro_batch_tokens=tokens), optimizer, shaped, here)
        except torch.OutOfMemoryError:
            figures[f"memory_ratio_{tokens}"] = float("inf")
            continue
        figures[f"tokens_per_second_{tokens}"] = round(measured.tokens_per_second, 1)
        figures[f"memory_ratio_{tokens}"] = round(measured.peak / computed, 4)
    return judged(machine, figures, {key: MEMORY for key in figures if key.startswith("memory_ratio")})


def check_trl(machine: Machine, options: CheckOptions) -> Result:
    """The same rollouts and steps by TRL's GRPO trainer: the same first gradient, and how much faster ours is."""
    if options.trl is None and not installed("trl"):
        return skipped("TRL is not installed here; --trl PYTHON names an interpreter that has it")
    name, trained = sizes(machine).small, train_options(machine)
    folder, shaped = model_folder(machine, options, name), write_rollouts(machine, options, name)
    order = Path(options.out) / "order.json"
    write_order(shaped, order, trained)
    policy = load_policy(folder, trained)
    ours = measure_update(policy, make_optimizer(policy.model, trained), shaped, trained)
    tokens = ours.tokens_per_second * sum(ours.seconds[1:])
    del policy
    if machine.device == "cuda":
        torch.cuda.empty_cache()
    figures: dict[str, Any] = {"tokens_per_second": round(ours.tokens_per_second, 1)}
    speeds, norms = [], []
    for micro in TRL_MICRO[machine.device]:
        theirs = run_trl(options, folder=folder, shaped=shaped, order=order, micro=micro, device=machine.device)
        if "error" in theirs:
            figures[f"trl_{micro}"] = theirs["error"]
            continue
        speeds.append(tokens / sum(theirs["seconds"][1:]))
        norms.append(theirs["norms"][0])
        figures[f"trl_tokens_per_second_{micro}"] = round(speeds[-1], 1)
    if not speeds:
        return Result(status="failed", why="TRL's update did not run at any micro-batch size", figures=figures)
    figures |= {
        "ratio": round(ours.tokens_per_second / max(speeds), 3),
        "grad_norm_difference": abs(ours.norms[0] - norms[0]) / norms[0],
    }
    return judged(machine, figures, {"ratio": TRL_GOAL, "grad_norm_difference": SAME_GRADIENT[machine.device]})


def train_options(machine: Machine) -> TrainOptions:
    """How the checks train on this device."""
    if machine.device == "cuda":
        return replace(whole(), updates=_workload(machine, 1, steps=4).steps)
    return TrainOptions(device="cpu", updates=4, warmup_steps=0, micro_batch_tokens=512, tensorboard=False)


def write_rollouts(machine: Machine, options: CheckOptions, name: str, *, steps: int = 4) -> str:
    """A shaped dataset in the vocabulary of a shape, written once."""
    folder = Path(options.out) / "data" / f"{name}-{steps}"
    if not folder.exists():
        write_workload(str(folder), _workload(machine, SHAPES[name]["vocab_size"], steps=steps))
    return str(folder)


def _workload(machine: Machine, vocabulary: int, *, steps: int) -> Workload:
    if machine.device == "cpu":
        return Workload(vocabulary=vocabulary, groups=2, group=4, steps=steps, longest=64, spread=0.7, prompt=16)
    return Workload(vocabulary=vocabulary, groups=16, group=8, steps=steps, longest=1024, spread=0.7, prompt=256)


def measure_update(policy: Policy, optimizer: torch.optim.Optimizer, shaped: str, options: TrainOptions) -> Update:
    """The steps of a shaped dataset; the first one's time is not counted, reading is."""
    cuda = policy.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ends, norms, tokens = [], [], []
    begun = time.perf_counter()
    for batch in batches([shaped], policy=policy, options=options):
        for micro in batch.micro_batches:
            loss, _ = batch_loss(policy, micro.to(policy.device), options=options)
            loss.backward()
        norms.append(apply_gradients(policy, optimizer, batch, rate=options.lr, options=options))
        if cuda:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        tokens.append(sum(policy.world.gather(sum(micro.real_tokens for micro in batch.micro_batches))))
    seconds = [after - before for before, after in zip([begun, *ends], ends, strict=False)]
    held = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Update(
        tokens_per_second=sum(tokens[1:]) / sum(seconds[1:]), seconds=tuple(seconds), norms=tuple(norms), peak=held
    )


def run_trl(options: CheckOptions, *, folder: str, shaped: str, order: Path, micro: int, device: str) -> dict[str, Any]:
    """What `trl_update` printed, or the last line of its error (TRL may run out of memory where ours does not)."""
    script, out = Path(__file__).with_name("trl_update.py"), Path(options.out) / "trl"
    command = [options.trl or sys.executable, str(script), "--model", folder, "--shaped", shaped, "--order", str(order)]
    command += ["--out", str(out), "--micro", str(micro), "--group", "4" if device == "cpu" else "8"]
    command += ["--threads", str(torch.get_num_threads()), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
