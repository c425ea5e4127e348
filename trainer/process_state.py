"""What a run changes in its process and puts back: deterministic kernels, and the memory of model and optimizer."""

from __future__ import annotations

import gc
import os
import traceback
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


@contextmanager
def nothing_left() -> Iterator[None]:
    """Frees at the end what was made inside: cycles, the allocator's cached blocks, and what tracebacks hold.

    The function that made it must be called inside: its frame has to have ended for its variables to be let go of.
    """
    try:
        yield
    except BaseException as error:
        _forget_frames(error)
        raise
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _forget_frames(error: BaseException | None) -> None:
    """Clears the variables of ended frames in the tracebacks of an error, its causes and its contexts."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        traceback.clear_frames(found.__traceback__)
        waiting += [found.__cause__, found.__context__]
