"""How fast `pass_ops.shape` is, against a plain copy of the same bytes: one JSON object a line.

    python benchmarks/bench_shape.py [--tokens 1000000 50000000 100000000] [--threads 1 2] [--repeats 7]
        [--only speed|first-call|memory|peers]

Each line: {"metric", "value", "unit", "against", "ratio"} and the sizes. `value` is the shortest of the repeats;
shaping and copying take turns, so that both see the same load. The copy is np.copyto between buffers allocated and
touched before, of as many bytes as shaping reads (the columns it needs) and writes (its five columns), cut into one
slice for each thread. Then come the first call of a process, the memory beyond inputs and outputs, and what others
would run on the same rollouts (peers/bench.py, which makes itself an environment). With --cpu, processor time of one
thread is measured instead: for a machine that is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
from peers import bench as peers

from pass_ops import ShapingConfig, shape

GROUP = 16
STEP = 19  # mean tokens of a step
LENGTHS = (250, 750)
MADE = ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable")
KL = ShapingConfig(signal="kl")
PRM = ShapingConfig(signal="prm")
CASES = ("kl_random", "kl_runs", "kl_random_mixed_mask", "prm", "prm_mixed_mask")


def make_table(case: str, tokens: int, seed: int = 0) -> tuple[pa.Table, ShapingConfig]:
    """Groups of 16 rollouts of 250 to 750 tokens, `tokens` in all."""
    rng = np.random.default_rng(seed)
    rows = max(GROUP, round(tokens / (sum(LENGTHS) / 2)) // GROUP * GROUP)
    lengths = rng.integers(*LENGTHS, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = _mixed_mask(rng, lengths, offsets) if "mixed" in case else np.ones(offsets[-1], dtype=np.bool_)
    columns = {
        "group_id": pa.array(np.repeat(np.arange(rows // GROUP), GROUP)).cast(pa.string()),
        "loss_mask": _lists(offsets, mask),
        "outcome_reward": pa.array(rng.integers(0, 2, rows).astype(np.float32)),
        "format_reward": pa.array((rng.random(rows) < 0.9).astype(np.float32)),
        "format_ok": pa.array(rng.random(rows) < 0.9),
    }
    if case.startswith("kl"):
        values = rng.standard_normal(offsets[-1], dtype=np.float32)
        if "runs" in case:  # runs that begin at the same positions in every rollout of a group
            within = np.arange(offsets[-1], dtype=np.int32) - np.repeat(offsets[:-1], lengths)
            values = values[np.repeat(offsets[:-1], lengths) + within // STEP * STEP]
        return pa.table({**columns, "process_scores": _lists(offsets, values)}), KL
    steps = -(-lengths // STEP)
    step_offsets = np.concatenate([[0], np.cumsum(steps)]).astype(np.int32)
    within = np.arange(step_offsets[-1]) - np.repeat(step_offsets[:-1], steps)
    ends = np.minimum((within + 1) * STEP, np.repeat(lengths, steps)).astype(np.int32)
    scores = rng.standard_normal(len(ends), dtype=np.float32)
    return (
        pa.table(
            {**columns, "process_scores": _lists(step_offsets, scores), "process_ends": _lists(step_offsets, ends)}
        ),
        PRM,
    )


def _mixed_mask(rng: np.random.Generator, lengths: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A tool's output of 40 to 120 tokens in three of four rollouts."""
    mask = np.ones(offsets[-1], dtype=np.bool_)
    for start, length in zip(offsets[:-1], lengths, strict=True):
        if rng.random() < 0.75:
            size = rng.integers(40, 120)
            first = start + rng.integers(0, length - size)
            mask[first : first + size] = False
    return mask


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def bytes_moved(table: pa.Table, shaped: pa.Table) -> int:
    return int(table.nbytes + shaped.select(MADE).nbytes)


def copier(size: int, threads: int) -> Callable[[], None]:
    source, target = np.ones(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    cuts = np.linspace(0, size, threads + 1).astype(int)
    pool = ThreadPoolExecutor(threads)

    def copy(i: int) -> None:
        np.copyto(target[cuts[i] : cuts[i + 1]], source[cuts[i] : cuts[i + 1]])

    def copy_all() -> None:
        list(pool.map(copy, range(threads)))

    return copy_all


def shortest(repeats: int, clock: Callable[[], float], *functions: Callable[[], object]) -> list[float]:
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = clock()
            function()
            best[i] = min(best[i], clock() - start)
    return best


def speeds(
    tokens: list[int], threads: list[int], repeats: int, cases: list[str], clock: Callable[[], float]
) -> Iterator[dict]:
    per_token: dict[tuple[str, int], tuple[int, float]] = {}
    for case in cases:
        for size in tokens:
            table, config = make_table(case, size)
            count = len(table["loss_mask"].combine_chunks().values) if size else 0
            moved = bytes_moved(table, shape(table, config))
            for n in threads:
                copy = copier(moved, n)
                seconds, base = shortest(repeats, clock, partial(shape, table, config, threads=n), copy)
                yield {
                    "metric": f"shape_{case}",
                    "value": round(seconds / count * 1e9, 4),
                    "unit": "ns/token",
                    "against": "np.copyto of the bytes read and written",
                    "ratio": round(seconds / base, 2),
                    "tokens": count,
                    "threads": n,
                    "bytes_per_token": round(moved / count, 2),
                    "Mtok_per_s": round(count / seconds / 1e6),
                }
                smallest = per_token.setdefault((case, n), (count, seconds / count))
                if smallest[0] != count:
                    yield {
                        "metric": f"shape_{case}_scaling",
                        "value": round(seconds / count * 1e9, 4),
                        "unit": "ns/token",
                        "against": f"the same at {smallest[0]} tokens",
                        "ratio": round(seconds / count / smallest[1], 2),
                        "tokens": count,
                        "threads": n,
                    }


def first_call(cases: tuple[str, ...] = ("kl_random", "prm")) -> Iterator[dict]:
    """Seconds of the first `shape` of a process, with an empty and with a filled cache of compiled kernels."""
    program = (
        "import sys, time; sys.path.insert(0, 'benchmarks'); from bench_shape import make_table; "
        "from pass_ops import shape; "
        "table, config = make_table(sys.argv[1], 10_000); start = time.perf_counter(); shape(table, config); "
        "print(time.perf_counter() - start)"
    )
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            times = [
                float(
                    subprocess.run(
                        [sys.executable, "-c", program, case],
                        env={**os.environ, "NUMBA_CACHE_DIR": folder},
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout
                )
                for _ in range(2)
            ]
        yield {
            "metric": f"shape_{case}_first_call_cached",
            "value": round(times[1], 2),
            "unit": "s",
            "against": f"compiling: {times[0]:.1f} s",
            "ratio": round(times[1] / times[0], 3),
        }


def memory(tokens: int, cases: list[str]) -> Iterator[dict]:
    """Peak of resident memory while shaping, beyond inputs and outputs, in a process of its own."""
    for case in cases:
        run = subprocess.run(
            [sys.executable, __file__, "--peak", case, "--tokens", str(tokens)],
            capture_output=True,
            text=True,
            check=True,
        )
        yield json.loads(run.stdout)


def peak(case: str, tokens: int) -> dict:
    small, config = make_table(case, 100_000)
    shape(small, config)  # compiled kernels and threads are not data
    table, config = make_table(case, tokens)
    inputs = int(table.nbytes)
    before = _resident()
    _reset_peak()
    shaped = shape(table, config)
    grown = _peak_resident() - before
    outputs = int(shaped.select(MADE).nbytes)
    return {
        "metric": f"shape_{case}_extra_memory",
        "value": round((grown - outputs) / 1e6, 1),
        "unit": "MB",
        "against": f"inputs of {inputs / 1e6:.0f} MB (outputs {outputs / 1e6:.0f} MB)",
        "ratio": round((grown - outputs) / inputs, 3),
        "tokens": tokens,
    }


def _status(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def _resident() -> int:
    return _status("VmRSS")


def _peak_resident() -> int:
    return _status("VmHWM")


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 50_000_000, 100_000_000])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--cpu", action="store_true", help="processor time, one thread")
    parser.add_argument("--only", choices=("speed", "first-call", "memory", "peers"))
    parser.add_argument("--peer-tokens", type=int, default=5_000_000)
    parser.add_argument("--peak", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.peak, options.tokens[0])))
        return
    if options.only in (None, "speed"):
        clock, threads = (time.process_time, [1]) if options.cpu else (time.perf_counter, options.threads)
        for line in speeds(options.tokens, threads, options.repeats, options.cases, clock):
            print(json.dumps(line), flush=True)
    if options.only in (None, "first-call"):
        for line in first_call():
            print(json.dumps(line), flush=True)
    if options.only in (None, "memory"):
        for line in memory(min(max(options.tokens), 50_000_000), options.cases):
            print(json.dumps(line), flush=True)
    if options.only in (None, "peers"):
        times = partial(shortest, options.repeats, time.perf_counter)
        for line in peers.lines(options.peer_tokens, options.threads, make_table, times):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
