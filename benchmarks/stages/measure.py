"""What the lines of every stage share: things timed in turns, and how a line is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Work = Callable[[], object]
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one piece of work, the least of the repeats: of all threads' processor time, and on the clock."""

    processor: float
    wall: float


def in_turns(repeats: int, *works: Work) -> list[Times]:
    """Time each piece of work `repeats` times, taking turns, so that all meet the same load.

    They run once before, which loads what is compiled and fills the disk's cache.
    """
    for work in works:
        work()
    spent: list[list[Times]] = [[] for _ in works]
    for _ in range(repeats):
        for times, work in zip(spent, works, strict=True):
            wall, processor = time.perf_counter(), time.process_time()
            work()
            times.append(Times(processor=time.process_time() - processor, wall=time.perf_counter() - wall))
    return [Times(processor=min(t.processor for t in times), wall=min(t.wall for t in times)) for times in spent]


def line(metric: str, *, value: float, unit: str, against: str, ratio: float, limit: float, **sizes: Any) -> Line:
    """One line: a figure, what it is measured against, their ratio (more is worse) and what that may be at most."""
    figures = {"metric": metric, "value": round(value, 2), "unit": unit, "against": against}
    return {**figures, "ratio": round(ratio, 3), "limit": limit, "met": ratio <= limit, **sizes}
