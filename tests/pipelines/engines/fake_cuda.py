"""vLLM's own configuration stage under a faked H100, without a GPU. Run as a script, in a process of its own.

    python -m tests.pipelines.engines.fake_cuda GPUS < cases.json > answers.json

A case is {"model": folder, "options": fields of EngineOptions, "length": context}. Its answer is what vLLM makes of our
arguments, or {"refused": its words}. vLLM's CUDA platform, the compiled modules it would import and the answers of the
driver are replaced; everything that decides about arguments is vLLM's. It can go once the tests run on a GPU.
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any
from unittest import mock

GIB = 2**30
COMPILED = (
    "vllm.vllm_flash_attn",
    "vllm.vllm_flash_attn.flash_attn_interface",
    "vllm.vllm_flash_attn.layers",
    "vllm.vllm_flash_attn.layers.rotary",
    "vllm.vllm_flash_attn.ops",
    "vllm.vllm_flash_attn.ops.triton",
    "vllm.vllm_flash_attn.ops.triton.rotary",
)
ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen2ForProcessRewardModel")


class Anything(types.ModuleType):
    """A package that has whatever is asked of it."""

    __path__ = ()  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock(name=name)


def fake_h100(gpus: int) -> None:
    """Make vLLM take this machine for one with so many H100s."""
    sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("vllm._C_stable_libtorch")
    import vllm.model_executor.models.registry as registry
    import vllm.platforms as platforms

    for name in ARCHITECTURES:  # inspected before the platform changes: their modules import kernels
        assert registry._try_inspect_model_cls(name, registry.ModelRegistry.models[name]) is not None
    import vllm.config
    import vllm.engine.arg_utils  # noqa: F401

    for name in COMPILED:
        sys.modules[name] = Anything(name)
    platform = _platform(gpus)
    platforms._current_platform = platforms.current_platform = platform
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm") and getattr(module, "current_platform", None) is not None:
            module.current_platform = platform  # type: ignore[attr-defined]
        if name.startswith("vllm") and hasattr(module, "HAS_TRITON"):
            module.HAS_TRITON = True  # type: ignore[attr-defined]


def _platform(gpus: int) -> Any:
    import vllm.platforms.cuda as cuda
    from vllm.platforms.interface import DeviceCapability

    class H100(cuda.NonNvmlCudaPlatform):
        get_device_capability = classmethod(lambda cls, device_id=0: DeviceCapability(9, 0))
        get_device_name = classmethod(lambda cls, device_id=0: "NVIDIA H100 80GB HBM3")
        get_device_total_memory = classmethod(lambda cls, device_id=0: int(79.6 * GIB))
        get_device_uuid = classmethod(lambda cls, device_id=0: "GPU-fake")
        device_count = classmethod(lambda cls: gpus)
        is_fully_connected = classmethod(lambda cls, ids: True)
        is_cumem_allocator_available = classmethod(lambda cls: True)

    return H100()


def configured(case: dict[str, Any]) -> dict[str, Any]:
    """What vLLM's configuration stage says of one case."""
    from vllm import EngineArgs

    from pipelines.engines import EngineOptions
    from pipelines.engines.vllm_arguments import batch_invariance, engine_arguments

    options = EngineOptions(**case["options"])
    os.environ.update(batch_invariance(options, device="cuda"))
    try:
        arguments = engine_arguments(
            case["model"],
            options,
            device="cuda",
            dtype=case["options"].get("dtype", "bfloat16"),
            context_length=case.get("length", 4096),
        )
        config = EngineArgs(**arguments, skip_tokenizer_init=True).create_engine_config()
    except Exception as error:  # noqa: BLE001 - the answer
        return {"refused": f"{type(error).__name__}: {error}"}
    scheduler = config.scheduler_config
    return {
        "batched_tokens": scheduler.max_num_batched_tokens,
        "seats": scheduler.max_num_seqs,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "share": config.cache_config.gpu_memory_utilization,
        "v2_runner": config.use_v2_model_runner,
        "graphs": str(config.compilation_config.cudagraph_mode),
        "executor": str(config.parallel_config.distributed_executor_backend),
        "sleep": config.model_config.enable_sleep_mode,
        "head": str(config.model_config.head_dtype),
        "dtype": str(config.model_config.dtype),
        "mode": config.model_config.logprobs_mode,
    }


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from pipelines.engines.vllm import _FORCED_ENVIRONMENT

    os.environ |= _FORCED_ENVIRONMENT
    fake_h100(int(sys.argv[1]))
    cases = json.load(sys.stdin)
    answers = [configured(case) for case in cases]
    sys.__stdout__.write("\n" + json.dumps(answers) + "\n")  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
