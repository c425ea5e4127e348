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
from pathlib import Path

from bench_shape import CASES, make_table
from two_checkouts import HERE, Side, least_by_turns, serve

import pass_ops


def serve_case(case: str, tokens: int) -> None:
    """Shape once for every line that arrives."""
    table, config = make_table(case, tokens)
    count = len(table["loss_mask"].combine_chunks().values)
    serve(pass_ops, lambda _: pass_ops.shape(table, config, threads=1), told=str(count))


def compare(before: Path, case: str, tokens: int, repeats: int) -> dict[str, object]:
    asked = ("--serve", case, "--tokens", str(tokens))
    sides = [Side(__file__, checkout, *asked) for checkout in (before, HERE)]
    old, new = least_by_turns(sides, repeats, lambda side, _: side.seconds())
    count = int(sides[1].told)
    return {
        "metric": f"shape_{case}",
        "value": round(new / count * 1e9, 4),
        "unit": "ns/token",
        "against": f"{round(old / count * 1e9, 4)} in the other checkout",
        "ratio": round(new / old, 3),
        "tokens": count,
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
        serve_case(options.serve, options.tokens[0])
        return
    for case in options.cases:
        for tokens in options.tokens:
            print(json.dumps(compare(options.before, case, tokens, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
