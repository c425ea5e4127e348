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

__all__ = [
    "SIGNALS",
    "Row",
    "Signal",
    "SignalBase",
    "SignalInputError",
    "SignalOptionError",
    "SignalResultError",
    "build_signal",
    "sidecar",
    "signal_from_table",
]
