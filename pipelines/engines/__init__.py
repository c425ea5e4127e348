"""Engines: what samples rollouts and scores given tokens. See `base` for the protocol."""

from __future__ import annotations

from pipelines.engines.base import (
    Engine,
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

__all__ = [
    "Engine",
    "EngineDead",
    "EngineOptionError",
    "EngineOptions",
    "EngineStartError",
    "RequestRejected",
    "Sample",
    "SampleRequest",
    "Sampling",
    "WeightsMismatchError",
]
