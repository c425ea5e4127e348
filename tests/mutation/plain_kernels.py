"""A pytest plugin for mutated code: kernels run as plain Python, and what kills a mutant soonest runs first.

Compiled, each mutant of a kernel would cost seconds, and one that reads out of bounds would read what lies there;
interpreted, it raises IndexError. numba takes Python floats for doubles and adds bytes up in int64; numpy computes in
what it meets, float32 or uint8, so arguments are widened on the way in.
"""

from __future__ import annotations

import functools
import json
import math
import os
import resource
import time
from pathlib import Path

import numba
import numpy as np
import pandas as pd  # noqa: F401 - pyarrow would import it in the process of every mutant, for a second
import pytest
from hypothesis import HealthCheck, Phase, settings
from mutmut.mutation.trampoline import get_mutant_under_test

STATISTICS = Path("mutmut-stats.json")  # written by mutmut's first run, in the folder the tests run in
SECONDS = float(os.environ.get("MUTANT_SECONDS", "inf"))

settings.register_profile(
    "mutants",
    max_examples=8 if math.isfinite(SECONDS) else 25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),  # mutmut runs the same test functions several times in a process
)
settings.load_profile("mutants")


def _widened(value):
    """`value` as numba would compute with it: in double precision, and whole numbers without a carry lost."""
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        return value.astype(np.int64)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_widened, value))
    return value


def _copy_back(wide, value):
    if isinstance(value, np.ndarray) and wide is not value and value.flags.writeable:
        value[...] = wide
    elif isinstance(value, tuple):
        for part, original in zip(wide, value, strict=True):
            _copy_back(part, original)


def _interpreted(function=None, **_options):
    if function is None:
        return _interpreted

    @functools.wraps(function)
    def kernel(*args):
        wide = tuple(map(_widened, args))
        with np.errstate(all="ignore"):
            result = function(*wide)
        _copy_back(wide, args)
        return result

    return kernel


numba.njit = _interpreted
os.fsync = os.fstat  # no test pulls the plug, and hundreds of syncs a mutant take seconds


def pytest_collection_modifyitems(items):
    """The module's own tests first, then the soonest; an S3 server only for the code that speaks to one."""
    if _of_a_mutant() and ".shards.store." not in get_mutant_under_test():
        items[:] = [item for item in items if not _speaks_to_s3(item)]
    seconds = json.loads(STATISTICS.read_text())["duration_by_test"] if STATISTICS.exists() else {}
    own = f"test_{get_mutant_under_test().rpartition('.')[0].rpartition('.')[2]}"
    items.sort(key=lambda item: (_speaks_to_s3(item), own not in item.nodeid, seconds.get(item.nodeid, 0.0)))


def _speaks_to_s3(item):
    return "s3_bucket" in item.fixturenames or (hasattr(item, "callspec") and item.callspec.params.get("root") == "s3")


def _of_a_mutant():
    return bool(get_mutant_under_test().partition("__mutmut_")[2])


def pytest_configure():
    """An endless loop ends long before mutmut's own limit would end it, and counts as caught all the same."""
    if _of_a_mutant() and math.isfinite(SECONDS):
        resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS * 5), int(SECONDS * 5) + 1))


def pytest_runtest_setup(item):
    """A mutant's process has used its time: its other tests are not run, and it counts as alive."""
    if _of_a_mutant() and time.process_time() > SECONDS:
        pytest.skip(f"{SECONDS} seconds are over")
