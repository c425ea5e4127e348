"""What a command pays before it does its work: processor seconds of whole processes, against a bare import.

python benchmarks/bench_startup.py [--repeats 5]

Each line is the least of some runs, since other programs of the machine only ever add. The dataset is tiny: what is
measured is importing and, where something is shaped, loading compiled kernels from numba's cache, which a first run
fills. `compiled` counts the kernels that the last run had to compile: 0 on a second start.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_view import write_dataset, write_tokenizer

BARE = "import pyarrow, polars"
SHAPE = """
import sys
from pass_ops import shape
from pass_ops.shards import open_dataset
made = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
shape(open_dataset(sys.argv[1]).read_part(0).drop_columns(made))
"""
START = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"


def processor_seconds(command: Sequence[str]) -> float:
    """Of one process and its children, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: lint found something
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compiled(command: Sequence[str]) -> int:
    """How many kernels a start saves into numba's cache, which is how many it compiled."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"NUMBA_DEBUG_CACHE": "1"}
    )
    return len(re.findall(r"\[cache\] data saved to", done.stdout + done.stderr))


def measurements(url: str) -> dict[str, list[str]]:
    """Title -> the process that is measured."""
    passrl = [sys.executable, "-c", START]
    return {
        "help": [*passrl, "--help"],
        "inspect": [*passrl, "inspect", url],
        "lint": [*passrl, "lint", url],
        "verify": [*passrl, "verify", url],
        "shape": [sys.executable, "-c", SHAPE, url],
    }


def main() -> None:
    """Print one JSON object per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digest = write_tokenizer(Path(folder) / "tokenizer")
        url = write_dataset(Path(folder) / "shaped", rollouts=32, tokens=50, digest=digest)
        bare = min(processor_seconds([sys.executable, "-c", BARE]) for _ in range(asked.repeats))
        for name, command in measurements(url).items():
            processor_seconds(command)  # fills numba's cache
            seconds = min(processor_seconds(command) for _ in range(asked.repeats))
            told = {"metric": f"startup_{name}", "value": round(seconds, 3), "unit": "processor s"}
            told |= {"against": BARE, "ratio": round(seconds / bare, 2), "compiled": compiled(command)}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
