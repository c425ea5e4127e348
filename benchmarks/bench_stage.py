"""What the stages cost beside the least they could: one JSON object a line.

    python benchmarks/bench_stage.py [--only shape score generate train] [--quick] [--folder DIR]

Each line: {"metric", "value", "unit", "against", "ratio", "limit", "met"} and the sizes; more is worse, and `limit` is
what `ratio` may be at most. What is compared runs in turns in one process, so that both meet the same load, and the
least of the repeats counts. Processor time is that of all threads. `benchmarks/stages/` has a file a stage.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from stages import advantages, generate, score, shape, train

STAGES = {
    "shape": shape.lines,
    "advantages": advantages.lines,
    "score": score.lines,
    "generate": generate.lines,
    "train": train.lines,
}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--quick", action="store_true", help="less data and fewer repeats: whether it runs at all")
    parser.add_argument("--folder", help="where datasets are written (default: the folder for temporary files)")
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix=f"bench-{name}-") as folder:
            for line in STAGES[name](Path(folder), quick=options.quick):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
