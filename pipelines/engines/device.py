"""What the engine will compute on, and in which dtype. Both decide results, so both belong in a fingerprint."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from pipelines.engines.base import EngineOptions
from pipelines.engines.machine import Memory, this_machine
from pipelines.models.folder import read_config
from pipelines.runners.gpus import count_gpus


def device_kind() -> str:
    """Where this process's models run: cuda where it sees a GPU, else cpu."""
    return "cuda" if count_gpus() else "cpu"


def resolve_device(options: EngineOptions) -> str:
    """The device that `options.device` stands for: cuda or cpu."""
    return device_kind() if options.device == "auto" else options.device


def resolve_dtype(model: str, options: EngineOptions) -> str:
    """The dtype that "auto" stands for here: float32, bfloat16 or float16.

    On a CPU without AVX-512 BF16 bfloat16 is emulated (measured five times slower than float32), so auto keeps to
    float32; no checkpoint is ever rounded down by it. The transformers engine, the oracle, is float32 by default.
    """
    if options.dtype != "auto":
        return options.dtype
    config = read_config(model)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if options.kind != "vllm":
        return "float32"
    if resolve_device(options) == "cuda":
        return stored if stored in ("bfloat16", "float16") else "float32"
    return "bfloat16" if stored == "bfloat16" and _cpu_has_bfloat16() else "float32"


def device_memory() -> Memory | None:
    """Of the GPU this process computes on: the first it may use, of torchrun's ranks that of LOCAL_RANK; None on a CPU.

    NVML is asked, so no CUDA context is opened, and torch only where there is a GPU at all.
    """
    gpus = this_machine().gpus
    if not gpus or device_kind() == "cpu":
        return None
    return gpus[int(os.environ.get("LOCAL_RANK", "0")) % len(gpus)].memory


def free_cached_memory() -> None:
    """Collect what only cycles keep alive, then give the blocks that torch caches on the GPU back to the driver."""
    gc.collect()
    torch = sys.modules.get("torch")  # never imported, it caches nothing
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text(encoding="utf-8")
