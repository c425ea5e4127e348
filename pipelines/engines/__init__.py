"""Engines: what samples rollouts and scores given tokens. See `base` for the protocol."""

from __future__ import annotations

from pipelines.engines.acquire import acquire, device_held, device_lent, release, start_engine, use_gpus
from pipelines.engines.base import (
    DeviceHeldError,
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
    "DeviceHeldError",
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
    "device_held",
    "device_kind",
    "device_lent",
    "release",
    "resolve_device",
    "resolve_dtype",
    "start_engine",
    "use_gpus",
]
