"""Engines: what samples rollouts and scores given tokens. See `base` for the protocol."""

from __future__ import annotations

from pipelines.engines.acquire import acquire, release, start_engine, use_gpus
from pipelines.engines.base import (
    Engine,
    EngineAsleep,
    EngineDead,
    EngineOptionError,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    WeightsMismatchError,
)
from pipelines.engines.device import device_kind, resolve_device, resolve_dtype

__all__ = [
    "Engine",
    "EngineAsleep",
    "EngineDead",
    "EngineOptionError",
    "EngineOptions",
    "EngineStartError",
    "RequestRejected",
    "Sample",
    "SampleRequest",
    "Sampling",
    "WeightsMismatchError",
    "acquire",
    "device_kind",
    "release",
    "resolve_device",
    "resolve_dtype",
    "start_engine",
    "use_gpus",
]
