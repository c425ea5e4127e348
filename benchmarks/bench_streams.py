"""What N streams cost beside three, and three beside PASS's own kernels: one JSON object a line, one thread.

    python benchmarks/bench_streams.py [--tokens 2000000] [--most 6] [--repeats 5]

Rollouts as in bench_shape.py. The first three streams are PASS as streams (docs/spec/streams.md, section 10, without
the gate); each further one is another process signal of the same level. `ratio` is processor time, the shortest of the
repeats, which take turns. `limit` for N streams is 1 + 0.5 (N - 3).
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import numpy as np
import pyarrow as pa
from bench_shape import CASES, make_table, shortest

from pass_ops import ShapingConfig, Stream, shape

STANDING = ("process", "outcome", "format")


def with_signals(table: pa.Table, names: list[str]) -> pa.Table:
    """The table with a further process signal of each name: other scores, the same ends."""
    rng = np.random.default_rng(1)
    like = table["process_scores"].combine_chunks()
    for name in names:
        scores = rng.standard_normal(len(like.values), dtype=np.float32)
        table = table.append_column(f"{name}_process_scores", pa.ListArray.from_arrays(like.offsets, pa.array(scores)))
        if "process_ends" in table.column_names:
            table = table.append_column(f"{name}_process_ends", table["process_ends"])
    return table.drop_columns("format_ok")  # no gate on either side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    further = [f"more_{i}" for i in range(args.most - len(STANDING))]
    for case in CASES:
        table, classic = make_table(case, args.tokens)
        table = with_signals(table, further)
        tokens = len(table["loss_mask"].combine_chunks().values)
        configs = [
            ShapingConfig(
                streams={name: Stream(signal=name) for name in (*STANDING, *further[:more])}, chunk_by=("process",)
            )
            for more in range(len(further) + 1)
        ]
        runs = [partial(shape, table, config, threads=1) for config in (classic, *configs)]
        for run in runs:
            run()  # compile
        kernels, three, *rest = shortest(args.repeats, time.process_time, *runs)
        line = {"metric": f"streams_{case}", "tokens": tokens, "unit": "ns/token"}
        values = {"value": round(three / tokens * 1e9, 2), "ratio": round(three / kernels, 2)}
        print(json.dumps({**line, "streams": 3, **values, "against": "PASS's kernels"}), flush=True)
        for number, seconds in enumerate(rest, start=4):
            values = {"value": round(seconds / tokens * 1e9, 2), "ratio": round(seconds / three, 2)}
            limit = {"against": "three streams", "limit": 1.0 + 0.5 * (number - 3)}
            print(json.dumps({**line, "streams": number, **values, **limit}), flush=True)


if __name__ == "__main__":
    main()
