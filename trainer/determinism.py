"""Deterministic kernels during a run: a promise where it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def determinism(wanted: bool | None, *, device: str) -> Iterator[None]:
    """Deterministic kernels; restores the process's own settings afterwards.

    wanted: True takes no other kernel and raises RuntimeError where there is none (cuBLAS's reproducible workspace is
    part of it); None takes them on a CPU, where they cost nothing, and leaves a GPU as it is.
    """
    if not (device == "cpu" if wanted is None else wanted):
        yield
        return
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, workspace = deterministic.fill_uninitialized_memory, os.environ.get(CUBLAS)
    if device == "cuda":
        os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not wanted)
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
        deterministic.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(CUBLAS, None)
