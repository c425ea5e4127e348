"""What vLLM is told on a GPU where the user says nothing, by card and model. Computed, not measured on a GPU.

vLLM's own defaults for an H100 are 16,384 tokens a batch, 1,024 sequences and a share of 0.92 of the card. 256
sequences limit models of 1.5B and below, and do not limit a 7B; larger batches of tokens take memory that keys and
values lack.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pipelines.engines.base import EngineOptions
from pipelines.engines.device import device_memory, resolve_device
from pipelines.engines.machine import GIB
from pipelines.models.folder import check_model_folder, tensor_shapes
from pipelines.models.safetensors import ModelFilesError
from pipelines.models.source import ModelNotFoundError

SHARE = 0.9  # of a card's memory: what sleeps beside the engine keeps a part of the rest
SEATS = 256  # where nothing is known of the device, and on a CPU
LARGE_CARD = 40 * GIB
SMALL_MODEL = 1_600_000_000  # parameters; Qwen2.5-1.5B has 1.54e9


@dataclass(frozen=True, kw_only=True)
class GpuDefaults:
    """seats: max_num_seqs. batched_tokens: max_num_batched_tokens. share: gpu_memory_utilization."""

    seats: int
    batched_tokens: int
    share: float = SHARE


def gpu_defaults(*, card: int | None, parameters: int | None, pools: bool = False) -> GpuDefaults:
    """For a card of so many bytes and a model of so many parameters (None: not known, taken for large ones).

    pools: the engine classifies given tokens: whole prompts in one pass, with no step of few tokens between.

    >>> gpu_defaults(card=80 * GIB, parameters=7_600_000_000)
    GpuDefaults(seats=512, batched_tokens=8192, share=0.9)
    >>> gpu_defaults(card=80 * GIB, parameters=500_000_000).seats
    1024
    >>> gpu_defaults(card=24 * GIB, parameters=7_600_000_000, pools=True)
    GpuDefaults(seats=256, batched_tokens=8192, share=0.9)
    """
    large = card is None or card >= LARGE_CARD
    tokens = (16_384 if pools else 8192) if large else (8192 if pools else 4096)
    seats = (1024 if parameters is not None and parameters <= SMALL_MODEL else 512) if large else 256
    return GpuDefaults(seats=seats, batched_tokens=tokens)


def defaults_here(model: str, *, pools: bool) -> GpuDefaults:
    """For this model on this process's GPU."""
    memory = device_memory()
    return gpu_defaults(card=None if memory is None else memory.total, parameters=parameters(model), pools=pools)


def seats(model: str, options: EngineOptions) -> int:
    """How many requests an engine with these options has under way at once."""
    if options.max_num_seqs is not None:
        return options.max_num_seqs
    on_gpu = options.kind == "vllm" and resolve_device(options) == "cuda"
    return defaults_here(model, pools=options.pooling is not None).seats if on_gpu else SEATS


def parameters(model: str) -> int | None:
    """The number of a model's weights, from the headers of its files; None where there are none to read."""
    try:
        shapes = tensor_shapes(str(check_model_folder(model)))
    except (ModelFilesError, ModelNotFoundError):
        return None  # whoever needs the weights says so
    return sum(prod(shape) for shape in shapes.values()) or None
