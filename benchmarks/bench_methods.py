"""What each published method costs beside PASS, one thread: one JSON object, method -> nanoseconds a token and ratio.

    python benchmarks/bench_methods.py [--tokens 2000000] [--repeats 3] > benchmarks/methods.json

Rollouts as in bench_shape.py (groups of 16, 500 tokens, steps of 19), with token ids, entropies and states. `ratio` is
to PASS on the same rows, in processor time; the shortest of the repeats counts. docs/reference/methods.md shows the
file.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import numpy as np
import pyarrow as pa
from bench_shape import make_table, shortest

from pass_ops import ShapingConfig, Weights, shape
from pass_ops.options.published import PUBLISHED

WEIGHTS = Weights(process=1.0, outcome=1.0, format=1.0)
VOCABULARY = 64  # rollouts part after a few tokens, as sampled ones do
STATES = 32
PER_TOKEN = ("saf_opd",)
VALUES = ("vineppo", "pav")  # their process scores are values of prefixes, 0 to 1


def with_more(table: pa.Table) -> pa.Table:
    """The table with token_ids, entropy and state."""
    rng = np.random.default_rng(1)
    mask, scores = (table[name].combine_chunks() for name in ("loss_mask", "process_scores"))
    ids = rng.integers(0, VOCABULARY, len(mask.values)).astype(np.int32)
    entropy = rng.exponential(0.5, len(mask.values)).astype(np.float32)
    states = rng.integers(0, STATES, len(scores.values))
    for name, like, values in (("token_ids", mask, ids), ("entropy", mask, entropy), ("state", scores, states)):
        table = table.append_column(name, pa.ListArray.from_arrays(like.offsets, pa.array(values)))
    return table


def as_values(table: pa.Table) -> pa.Table:
    """The table with process scores within 0 to 1."""
    scores = table["process_scores"].combine_chunks()
    values = pa.array(1 / (1 + np.exp(-scores.values.to_numpy())))
    place = table.schema.get_field_index("process_scores")
    return table.set_column(place, "process_scores", pa.ListArray.from_arrays(scores.offsets, values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    tables = {signal: make_table(case, args.tokens) for signal, case in (("prm", "prm"), ("kl", "kl_random"))}
    found: dict[str, dict[str, float]] = {}
    for name in PUBLISHED:
        table, config = tables["kl" if name in PER_TOKEN else "prm"]
        table = with_more(table).drop_columns("format_ok")
        table = as_values(table) if name in VALUES else table
        ours = ShapingConfig(estimator=name, signal=config.signal, weights=WEIGHTS)
        count = len(table["loss_mask"].combine_chunks().values)
        run, beside = (partial(shape, table, options, threads=1) for options in (ours, config))
        run(), beside()  # compile
        seconds, base = shortest(args.repeats, time.process_time, run, beside)
        found[name] = {"ns_per_token": round(seconds / count * 1e9, 2), "ratio": round(seconds / base, 1)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
