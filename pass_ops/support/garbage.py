"""Python's search for cyclic garbage, left out where much is made that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """Inside, the collector does not start by itself; who calls it is answered.

    Every search walks over the objects that are there, again and again while modules or records are loaded, which hold
    no garbage. Where several threads are inside at once, the one that came first turns the search on as it leaves.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
