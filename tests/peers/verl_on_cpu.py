"""A CPU as a platform of verl, by its own registry of platforms: its actor then takes a step in this process.

verl 0.9 knows NVIDIA, AMD and NPUs. What a platform has to answer is a device's name, memory and streams; of those a
CPU has the name, "cpu", and gloo. The FSDP engine runs as it is.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from verl.models.transformers import monkey_patch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import set_platform
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

_NOTHING = SimpleNamespace(
    memory_allocated=lambda *_: 0, memory_reserved=lambda *_: 0, max_memory_allocated=lambda *_: 0,
    max_memory_reserved=lambda *_: 0, mem_get_info=lambda *_: (0, 0), empty_cache=lambda: None,
    synchronize=lambda *_: None, get_device_name=lambda *_: "cpu", current_device=lambda: "cpu",
    is_available=lambda: True, device_count=lambda: 1, set_device=lambda *_: None,
)  # fmt: skip

#: of AdamW: with its default 1e-8 a gradient of rounding errors moves a weight as far as any other
EPS = 1e-4


class Cpu(PlatformBase):
    """One CPU, over gloo."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _NOTHING

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return nullcontext()

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


def actor(folder: str, *, lr: float) -> Any:
    """verl's worker that trains the actor, the FSDP2 engine in float32 on one rank, with the model in `folder`."""
    set_platform(Cpu())
    os.environ.update(WORLD_SIZE="1", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"  # the engine that is registered for cuda, on this platform
    os.environ["VERL_ENGINE_VENDOR"] = "nvidia"
    monkey_patch.is_trl_available = lambda: False  # verl looks for a class that TRL 1 no longer has
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    from verl.workers.engine_workers import TrainingWorker

    float32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=HFModelConfig(
                path=folder, use_remove_padding=False, override_config={"attn_implementation": "eager"},
                enable_gradient_checkpointing=False,
            ),
            engine_config=FSDPEngineConfig(
                strategy="fsdp2", use_dynamic_bsz=False, micro_batch_size_per_gpu=1, use_torch_compile=False,
                mixed_precision=float32, infer_micro_batch_size_per_gpu=1,
            ),
            optimizer_config=FSDPOptimizerConfig(
                lr=lr, total_training_steps=10, override_optimizer_config={"eps": EPS}
            ),
        )
    )  # fmt: skip
    worker.reset()
    return worker
