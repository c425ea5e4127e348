"""The study from the command line.

    python -m benchmarks.study run --size smoke       minutes: every arm, very short (give --results)
    python -m benchmarks.study run                    tuning, then the seeds that fit into some hours
    python -m benchmarks.study run --size core        all seeds of the arms that answer the claims
    python -m benchmarks.study run --size full        the further arms as well: they are tuned first
    python -m benchmarks.study cell pass_k07-slight-lr0.001-s0 --again
    python -m benchmarks.study models                 trains the start models anew (minutes)
    python -m benchmarks.study publish --out DIR      one seed's rollouts of every arm as shards
    python -m benchmarks.study probe                  the start policy's rollouts, with drift and forecast of every arm
    python -m benchmarks.study report                 writes docs/study/ from the stored files

Finished cells stay: the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study import run, store
from benchmarks.study.arms import cell_of
from benchmarks.study.size import CORE_ONLY, FULL, SMOKE, STUDY

SIZES = {"smoke": SMOKE, "study": STUDY, "core": CORE_ONLY, "full": FULL}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    given = _parser().parse_args(argv)
    size = SIZES[getattr(given, "size", "study")]
    places = {"models": given.models, "results": given.results, "rollouts": given.rollouts}
    if given.command == "run":
        return _run(given)
    if given.command == "worker":
        cells = run.cells_of(size, given.stage, given.results, models=given.models, rate=given.rate)
        return 1 if run.work(cells, size=size, **places) else 0
    if given.command == "cell":
        cell = cell_of(given.name)
        if given.again:
            store.result_file(given.results, cell).unlink(missing_ok=True)
        return 1 if run.work([cell], size=size, **places) else 0
    if given.command == "models":
        from benchmarks.study.make_models import make_models

        make_models(given.models, given.work)
    elif given.command == "probe":
        from benchmarks.study.probe import write_probes

        write_probes(models=given.models, cap=size.cap)
    elif given.command == "report":
        from benchmarks.study.report import write_report

        write_report()
    else:
        from benchmarks.study.publish import publish

        publish(given.out, models=given.models, kept=given.rollouts)
    return 0


def _run(given: argparse.Namespace) -> int:
    for stage in ("tuning", "grid") if given.rate is None else ("grid",):
        paths = [f"--{name}={getattr(given, name)}" for name in ("models", "results", "rollouts")]
        rate = [] if given.rate is None else [f"--rate={given.rate}"]
        if run.run_workers(given.workers, ["worker", *paths, *rate, "--size", given.size, "--stage", stage]):
            print(f"some cells of the {stage} failed; the same command tries them again", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "worker", "cell", "models", "publish", "probe", "report"):
        one = commands.add_parser(name)
        one.add_argument("--models", type=Path, default=store.MODELS, help="folder of the start models")
        one.add_argument("--results", type=Path, default=store.RESULTS, help="folder of the finished cells")
        one.add_argument("--rollouts", type=Path, default=store.ROLLOUTS, help="folder of the kept seed's rollouts")
        if name in ("run", "worker", "cell"):
            one.add_argument("--size", choices=list(SIZES), default="study")
        if name in ("run", "worker"):
            one.add_argument("--rate", type=float, help="every arm at this learning rate: no tuning")
        if name == "run":
            one.add_argument("--workers", type=int, default=2, help="processes, one a core")
        elif name == "worker":
            one.add_argument("--stage", choices=["tuning", "grid"], required=True)
        elif name == "cell":
            one.add_argument("name", help="arm-level-lrRATE-sSEED")
            one.add_argument("--again", action="store_true", help="even where it is finished")
        elif name == "models":
            one.add_argument("--work", type=Path, required=True, help="folder of logs and states")
        elif name == "publish":
            one.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
