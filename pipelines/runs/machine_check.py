"""Can this machine run the engines and the update of a run? Decided from a view of it, before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pass_ops.errors import PassError
from pipelines.engines.base import EngineOptions
from pipelines.engines.device import device_kind
from pipelines.engines.gpu_defaults import SHARE
from pipelines.engines.machine import Gpu, Machine, gib, needed_driver, older
from pipelines.engines.node import cards_per_engine
from pipelines.models.folder import read_config
from pipelines.runs.config import RunConfig
from pipelines.signals.base import Signal, SignalBase

TOLERANCE = 0.02  # of a card: what a desktop or a monitor holds


@dataclass(frozen=True, kw_only=True)
class Use:
    """One engine of a run, or its update. place: where it is configured. device: what its own "auto" stands for here.

    options: None of the update. config: the model's config.json, None where it is not known.
    """

    place: str
    device: str
    options: EngineOptions | None = None
    config: dict[str, Any] | None = None

    @property
    def stage(self) -> str:
        """The stage whose runner decides where it computes."""
        return {"engine": "generate", "train": "train"}.get(self.place, "score")

    @property
    def named(self) -> str:
        """The device as it is configured."""
        return self.device if self.options is None else self.options.device

    @property
    def gpus(self) -> int:
        """How many GPUs it computes on."""
        return 1 if self.options is None else cards_per_engine(self.options)


def planned_uses(
    config: RunConfig, stages: Collection[str], signals: Mapping[str, Signal], *, policy: str | None, machine: Machine
) -> Iterator[Use]:
    """Every engine of the stages and of these signals, and the update. policy: None where it is not known."""
    if {"generate", "eval"} & set(stages) and policy is not None:
        yield engine_use("engine", policy, config.engine, machine)
    for name, signal in signals.items():
        if isinstance(signal, SignalBase):
            for model, options in signal.engines().items():
                yield engine_use(f"signals.{name}.engine", model, options, machine)
    if "train" in stages:
        yield Use(place="train", device=computes_on(config.train.device, machine))


def engine_use(place: str, model: str, options: EngineOptions, machine: Machine) -> Use:
    """An engine that a run starts; one that runs no model here needs no GPU of this machine."""
    if options.kind not in ("vllm", "transformers"):
        options = replace(options, device="cpu")
    return Use(
        place=place,
        device=computes_on(options.device, machine),
        options=options,
        config=_config(model),
    )


def _config(model: str) -> dict[str, Any] | None:
    """None where the model has none that can be read, which is said elsewhere."""
    try:
        return read_config(model)
    except (PassError, OSError):
        return None


def computes_on(named: str, machine: Machine) -> str:
    """What a device's name stands for; torch is asked only where the machine has a GPU."""
    if named != "auto":
        return named
    return device_kind() if machine.gpus else "cpu"


def cuda_version() -> str | None:
    """The CUDA version that the installed torch is built with."""
    import torch

    version: str | None = torch.version.cuda
    return version


def machine_problems(
    machine: Machine,
    uses: Sequence[Use],
    *,
    cuda: str | None,
    ours: int = 0,
    node: bool = False,
    processes: bool = False,
) -> Iterator[str]:
    """One line for each reason why these engines and this update cannot run on the machine.

    cuda: the CUDA version that the installed torch is built with. ours: bytes of each card that this process holds.
    node: an engine runs on every card, not on the first alone. processes: each worker of the runner is a process.
    """
    for use in uses:
        yield from parallel_problems(use)
    on_gpu = [use for use in uses if use.device == "cuda"]
    if not machine.gpus:
        reason = machine.problem or "CUDA_VISIBLE_DEVICES leaves this process no GPU"
        wanted = [use for use in uses if use.named == "cuda" or (use.named == "auto" and machine.broken)]
        yield from (f"{use.place}: device is {use.named}, but {reason}" for use in wanted)
        return
    if on_gpu and cuda and machine.driver and older(machine.driver, than=(needed := needed_driver(cuda))):
        yield (
            f"the NVIDIA driver is {machine.driver}, but CUDA {cuda}, which the installed torch is built with, needs "
            f"{needed} or newer: update the driver, or install a torch for an older CUDA"
        )
    if processes and any(use.options is not None for use in on_gpu):
        yield (
            "runner.flags has direct_running_mode multi_processing: every worker would start an engine on the first "
            'GPU. Leave the flag out and set runner.gpus = "all", which gives each engine a GPU of its own'
        )
    for use in on_gpu:
        if use.gpus > len(machine.gpus):
            yield (
                f"{use.place}: its extra asks for {use.gpus} GPUs (tensor_parallel_size times pipeline_parallel_size), "
                f"but this process may use {len(machine.gpus)}; lower it, or look at CUDA_VISIBLE_DEVICES"
            )
        elif use.options is not None and use.options.kind == "vllm":
            share = float(use.options.extra.get("gpu_memory_utilization", SHARE))
            yield from (
                line
                for gpu in (machine.gpus if node else machine.gpus[: use.gpus])
                for line in _in_use(gpu, use.place, share, ours)
            )


def parallel_problems(use: Use) -> Iterator[str]:
    """Tensor parallelism gives each GPU the same number of attention heads."""
    if use.options is None or use.options.kind != "vllm" or use.config is None:
        return
    size = int(use.options.extra.get("tensor_parallel_size", 1))
    text = {**use.config, **(use.config.get("text_config") or {})}
    heads = int(text.get("num_attention_heads") or size)
    if size < 1 or heads % size:
        fitting = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        yield (
            f"{use.place}: extra.tensor_parallel_size is {size}, which does not divide the model's {heads} attention "
            f"heads; choose one of {fitting}"
        )


def _in_use(gpu: Gpu, place: str, share: float, ours: int) -> Iterator[str]:
    free, total = gpu.memory.free + ours, gpu.memory.total
    if free + TOLERANCE * total >= share * total:
        return
    holders = [f"process {pid}" + ("" if size is None else f" holds {gib(size)}") for pid, size in gpu.processes]
    by = f" ({', '.join(holders)})" if holders else ""
    yield (
        f"{place}: vLLM takes {gib(int(share * total))} of GPU {gpu.index} ({gpu.name}), but {gib(free)} of "
        f"{gib(total)} are free{by}; end what runs there, choose another card by CUDA_VISIBLE_DEVICES, or set "
        f"extra.gpu_memory_utilization to {max(0.0, free / total - TOLERANCE):.2f} or less"
    )
