"""What signals cost beside another checkout of the project: one JSON object a line.

    git archive COMMIT | (mkdir -p before && tar -x -C before)
    python benchmarks/score_before.py before [--stage] [--parts 1] [--repeats 5] [--signals execution prm ...]

Two processes, one with each checkout's code, score the same rollouts (bench_score.py's, 4,096 a part) by turns, so that
both see the same load; who goes first changes with every turn. Time is processor time, child processes counted, the
least of the repeats; a signal that calls a function has one process for it. Without --stage it is that of the signals
alone, on tables in memory; with it that of the stage, from Parquet to Parquet through the Beam job.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from bench_score import POLICY, ROWS_A_PART, SIGNALS, Stored
from two_checkouts import HERE, Side, least_by_turns, serve

import pipelines
from pass_ops.shards import open_dataset
from pipelines.signals import signal_from_table

#: those that others are made of; then all that need no server, computer algebra or sampling
MADE_FIRST = ("teacher", "base", "execution", "prm")
CALLING = ("format", "execution", *(name for name in SIGNALS if name.startswith("outcome")))
COMPARED = [name for name in SIGNALS if name not in ("outcome math", "monte_carlo", "judge")]


def processor_seconds() -> float:
    """Of this process and of those it has started, which live or have ended."""
    ended = os.times()
    living = (int(file.read_text().split()[0]) for pid in _children() for file in pid.glob("task/*/schedstat"))
    return time.process_time() + ended.children_user + ended.children_system + sum(living) / 1e9


def _children() -> list[Path]:
    lists = Path("/proc/self/task").glob("*/children")
    return [Path("/proc") / pid for file in lists for pid in file.read_text().split()]


def serve_signal(table: Mapping[str, Any], folder: Path, *, stage: bool) -> None:
    """Score once for every line that arrives; the stage writes a dataset of that name."""
    signal = signal_from_table(table)
    serve(pipelines, _staged(signal, folder) if stage else _alone(signal, folder), clock=processor_seconds)


def _alone(signal: Any, folder: Path) -> Callable[[str], object]:
    signal.setup(POLICY)
    tables: dict[str, pa.Table] = {}
    for name in ("rollouts", *signal.inputs):
        place = folder / (name if name in ("rollouts", "prompts") else f"signals/{name}")
        tables[name] = open_dataset(str(place)).read_part(0)
    rollouts = tables.pop("rollouts")
    return lambda _: signal.score(rollouts, tables)


def _staged(signal: Any, folder: Path) -> Callable[[str], object]:
    stored = Stored.__new__(Stored)  # written by the process that compares
    stored._folder = folder
    return lambda name: stored.score(name, signal)


def compare(before: Path, name: str, folder: Path, *, parts: int, repeats: int, stage: bool) -> dict[str, Any]:
    """One signal's line."""
    table = SIGNALS[name][0] | ({"workers": 1} if name in CALLING else {})
    asked = ["--serve", json.dumps(table), "--folder", str(folder), *(["--stage"] if stage else [])]
    sides = [Side(__file__, checkout, *asked) for checkout in (before, HERE)]
    best = least_by_turns(sides, repeats, lambda side, turn: side.seconds(f"made-{side is sides[1]}-{turn}"))
    old, new = (1e6 * seconds / (parts * ROWS_A_PART) for seconds in best)
    return {
        "metric": f"score {'stage' if stage else 'signal'}: {name}",
        "value": round(new, 2),
        "unit": "processor us/row",
        "against": f"{old:.2f} in the other checkout",
        "times_faster": round(old / new, 2),
        "rows_per_s": round(1e6 / new),
        "rows": parts * ROWS_A_PART,
    }


def main() -> None:
    """Print one line a signal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout's folder")
    parser.add_argument("--stage", action="store_true", help="the whole stage, not the signal alone")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--signals", nargs="+", default=COMPARED, choices=COMPARED)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_signal(json.loads(options.serve), options.folder, stage=options.stage)
        return
    with tempfile.TemporaryDirectory(prefix="score-before-") as scratch:
        folder = Path(scratch) / "stored"
        stored = Stored(folder, options.parts)
        for name in MADE_FIRST:
            stored.score(name, signal_from_table(SIGNALS[name][0]))
        for name in options.signals:
            sizes = {"parts": options.parts, "repeats": options.repeats, "stage": options.stage}
            print(json.dumps(compare(options.before.resolve(), name, folder, **sizes)), flush=True)


if __name__ == "__main__":
    main()
