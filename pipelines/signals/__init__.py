"""Signals: values attached to stored rollouts, one sidecar dataset each. See `base` for how to write one."""

from __future__ import annotations

from pipelines.signals.base import (
    SIGNALS,
    Row,
    Signal,
    SignalBase,
    SignalInputError,
    SignalOptionError,
    SignalResultError,
    build_signal,
    sidecar,
    signal_from_table,
)
from pipelines.signals.columns import columnar_sidecar

__all__ = [
    "SIGNALS",
    "Row",
    "Signal",
    "SignalBase",
    "SignalInputError",
    "SignalOptionError",
    "SignalResultError",
    "build_signal",
    "columnar_sidecar",
    "sidecar",
    "signal_from_table",
]
