"""A process that read a dataset ends with the exit code it was given, however soon after the read (Arrow 34314)."""

from __future__ import annotations

import subprocess
import sys

RUNS = 10
# One processor keeps Arrow's threads waiting until the interpreter ends, and polars and numba make that end long enough
# for them to run into it. Where parts were read from Python's memory, this aborted 8 times of 8.
READ_AND_FAIL = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import polars, pass_ops.estimators
from pass_ops.shards import open_dataset
dataset = open_dataset(sys.argv[1])
for part in range(len(dataset.parts)):
    dataset.read_part(part)
raise SystemExit(2)
"""


def test_a_process_that_read_a_dataset_exits_as_it_means_to(tmp_path, make_dataset, rollouts):
    many = rollouts(*(f"group {number}" for number in range(500)))
    make_dataset(str(tmp_path), many, many, many)
    program = [sys.executable, "-c", READ_AND_FAIL, tmp_path]
    runs = [subprocess.run(program, capture_output=True, check=False) for _ in range(RUNS)]
    assert [(run.returncode, run.stderr) for run in runs] == [(2, b"")] * RUNS
