"""What each stage of a run will hold on every GPU, before anything runs: `trainer.gpu_memory` for this run's models.

Computed from configs and the headers of weight files. A stage that computes elsewhere (a server, recordings, a CPU) is
left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.engines.base import EngineOptions
from pipelines.engines.gpu_defaults import gpu_defaults
from pipelines.engines.machine import this_machine
from pipelines.models.folder import read_config, tensor_shapes
from pipelines.models.safetensors import ModelFilesError
from pipelines.models.source import ModelNotFoundError
from pipelines.runners.gpus import GpuError, node_cards
from pipelines.runs.config import RunConfig
from pipelines.signals.base import Signal, SignalBase
from trainer.defaults import with_defaults
from trainer.errors import AdapterError
from trainer.gpu_memory import GIB, Holding, does_not_fit, engine, model_shape, training, usable, ways_to_fit

_CARDS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+(?:\.\d+)?)\s*GiB", re.IGNORECASE)
CONTEXT = 4096  # tokens, where a model's config does not say


@dataclass(frozen=True, kw_only=True)
class Cards:
    """GPUs of one size. memory: bytes of each."""

    count: int = 1
    memory: int


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """One stage on each of its `gpus` GPUs. usable: bytes it may hold there. problem: why it does not fit, if so."""

    stage: str
    model: str
    gpus: int
    holding: Holding
    usable: int
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Sizes in GiB."""
        return {
            "stage": self.stage,
            "model": self.model,
            "gpus": self.gpus,
            "gib": {name: _gib(size) for name, size in self.holding.parts.items()},
            "total_gib": _gib(self.holding.total),
            "usable_gib": _gib(self.usable),
            "host_gib": _gib(self.holding.host),
            "problem": self.problem,
        }


def parse_cards(text: str) -> Cards:
    """The GPUs that a text names. Raises ValueError.

    >>> parse_cards("80 GiB").count, parse_cards("8 x 80 GiB").memory // 2**30
    (1, 80)
    """
    found = _CARDS.fullmatch(text.strip())
    if found is None or not float(found[2]) or found[1] == "0":
        raise ValueError(f'{text!r} names no GPUs; write "80 GiB" for one, or "8 x 80 GiB"')
    return Cards(count=int(found[1] or 1), memory=int(float(found[2]) * GIB))


def cards_here(config: RunConfig) -> Cards | None:
    """The GPUs that a run on this machine computes on; None where it has none, or a runner computes elsewhere."""
    if config.runner.name != "direct" or (config.engine.device == config.train.device == "cpu"):
        return None
    gpus = this_machine().gpus
    if not gpus:
        return None
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if config.runner.gpus is not None:
        try:
            cards = node_cards(config.runner.gpus, count=len(gpus))
        except GpuError:
            return None  # said elsewhere
        if "cpu" in cards:
            return None
        count, gpus = len(cards), tuple(gpus[int(card)] for card in cards)
    return Cards(count=count, memory=min(gpu.memory.total for gpu in gpus))


def stage_memory(
    config: RunConfig, *, policy: str, signals: Mapping[str, Signal], stages: Collection[str], cards: Cards
) -> list[StageMemory]:
    """Every stage that takes a GPU, in the order in which they run. The policy's folder must exist."""
    found = []
    if {"generate", "eval"} & set(stages):
        found += _of_engine("policy", policy, config.engine, cards)
    if {"score", "eval"} & set(stages):
        for name, signal in signals.items():
            engines = signal.engines() if isinstance(signal, SignalBase) else {}
            for model, options in engines.items():
                found += _of_engine(f"signals.{name}", model, options, cards) if model != policy else []
    if "train" in stages and config.train.device != "cpu":
        found.append(_of_training(config, policy, cards))
    return found


def _of_engine(stage: str, model: str, options: EngineOptions, cards: Cards) -> list[StageMemory]:
    if options.kind not in ("vllm", "transformers") or options.device == "cpu":
        return []
    try:
        config, tensors = read_config(model), tensor_shapes(model)
    except (ModelNotFoundError, ModelFilesError, AdapterError):
        return []  # said elsewhere, in better words
    gpus = int(options.extra.get("tensor_parallel_size", 1))
    shape, pools = model_shape(config, tensors), options.pooling is not None
    chosen = gpu_defaults(card=cards.memory, parameters=shape.parameters, pools=pools)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = options.dtype if options.dtype != "auto" else stored if stored in ("bfloat16", "float16") else "float32"
    holding = engine(
        shape,
        dtype=dtype,
        longest=options.max_model_len or int(config.get("max_position_embeddings") or CONTEXT),
        gpus=gpus,
        batched_tokens=int(options.extra.get("max_num_batched_tokens", chosen.batched_tokens)),
        sequences=options.max_num_seqs or chosen.seats,
        pooling=pools,
    )
    limit = int(float(options.extra.get("gpu_memory_utilization", chosen.share)) * cards.memory)
    problem = None
    if holding.total > limit:
        problem = (
            f"the engine of {model} needs at least {holding} on each GPU, of which {limit / GIB:.0f} GiB can be used. "
            "Raise extra.tensor_parallel_size, lower max_model_len, or take larger GPUs"
        )
    elif gpus > cards.count:
        problem = f"extra.tensor_parallel_size is {gpus}, but there are {cards.count} GPUs; lower it"
    return [StageMemory(stage=stage, model=model, gpus=gpus, holding=holding, usable=limit, problem=problem)]


def _of_training(config: RunConfig, policy: str, cards: Cards) -> StageMemory:
    shape, limit = model_shape(read_config(policy), tensor_shapes(policy)), usable(cards.memory)
    options = with_defaults(
        config.train, device="cuda", fits=lambda o: training(shape, o, gpus=cards.count).total <= limit
    )
    holding = training(shape, options, gpus=cards.count)
    problem = None
    if cards.count > 1 and options.weights_dtype == "bfloat16" and not options.lora_rank:
        problem = (
            f"weights_dtype is 'bfloat16' without LoRA, which trains on one GPU, and there are {cards.count}; set it "
            "to 'float32', which several GPUs have room for, or runner.gpus to one GPU"
        )
    elif holding.total > limit:
        ways = ways_to_fit(shape, options, gpus=cards.count, limit=limit)
        problem = does_not_fit(f"the update of {policy}", holding, limit=limit, ways=ways)
    return StageMemory(stage="train", model=policy, gpus=cards.count, holding=holding, usable=limit, problem=problem)


def _gib(size: int) -> float:
    return round(size / GIB, 2)
