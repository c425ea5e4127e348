"""Whether `pass_ops.shape` is as fast as in another checkout of the project: one JSON object a line, one thread.

    git archive COMMIT | (mkdir -p before && tar -x -C before)
    python benchmarks/bench_before.py before [--tokens 1000000 20000000] [--repeats 15] [--cases prm ...]

Two processes, one with each checkout's `pass_ops`, shape the same rollouts (bench_shape.py's) by turns, so that both
see the same load; who goes first changes with every turn. `value` is the shortest of the repeats, in processor time;
`ratio` is to the other checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench_shape import CASES, make_table

import pass_ops

HERE = Path(__file__).resolve().parent.parent


def serve(case: str, tokens: int) -> None:
    """Shape once for every line that arrives, and say the processor time."""
    table, config = make_table(case, tokens)
    print(Path(pass_ops.__file__).parent.parent, len(table["loss_mask"].combine_chunks().values), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        pass_ops.shape(table, config, threads=1)
        print(time.process_time() - start, flush=True)


class Side:
    """A process that shapes with the `pass_ops` of one checkout."""

    def __init__(self, checkout: Path, case: str, tokens: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(checkout), "--serve", case, "--tokens", str(tokens)],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found, count = self._line().rsplit(" ", 1)
        if Path(found).resolve() != checkout.resolve():
            raise SystemExit(f"pass_ops was imported from {found}, not from {checkout}; name a checkout of the project")
        self.tokens = int(count)
        self.seconds()  # compile

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def seconds(self) -> float:
        """Processor time of one call."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        self.process.communicate()


def compare(before: Path, case: str, tokens: int, repeats: int) -> dict[str, object]:
    old, new = sides = [Side(checkout, case, tokens) for checkout in (before, HERE)]
    best = {side: float("inf") for side in sides}
    for turn in range(repeats):
        for side in sides if turn % 2 else reversed(sides):
            best[side] = min(best[side], side.seconds())
    for side in sides:
        side.close()
    ns = {side: seconds / side.tokens * 1e9 for side, seconds in best.items()}
    return {
        "metric": f"shape_{case}",
        "value": round(ns[new], 4),
        "unit": "ns/token",
        "against": f"{round(ns[old], 4)} in the other checkout",
        "ratio": round(best[new] / best[old], 3),
        "tokens": new.tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout's folder")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--serve", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.tokens[0])
        return
    for case in options.cases:
        for tokens in options.tokens:
            print(json.dumps(compare(options.before, case, tokens, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
