"""A pytest plugin for mutated code: what kills a mutant soonest runs first, for so many seconds."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from pathlib import Path

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
