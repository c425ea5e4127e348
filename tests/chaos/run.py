"""A small run is killed, doubled, damaged, forged and starved, again and again, from a seed: what comes of it?

    python -m tests.chaos.run --report docs/explanation/measured/chaos.md       # what `make chaos` runs
    python -m tests.chaos.run --report page.md --only 'flip: part' --trials 20  # one kind

Every trial gets a copy of one finished run (recorded engine, tiny policy). It must end with the same result, or with a
named error whose repair, followed to the letter, leads to the same result. Trials are numbered: the same seed and
number do the same. With --journal a run that was cut off goes on where it stopped. Exit code 1 where a trial failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos import damage, disks, forgery, hostile, interrupted, twins
from tests.chaos.arena import Arena
from tests.chaos.outcome import Outcome, failed

Trial = Callable[[Arena, random.Random, str], Outcome]

KINDS: dict[str, Trial] = {
    "kill: rounds": interrupted.killed_rounds,
    "kill: train": interrupted.killed_train,
    "twins: rounds": twins.twin_rounds,
    "twins: train": twins.twin_train,
    "twins: sft": twins.twin_sft,
    **damage.TRIALS,
    "disk: full": disks.full_disk,
    "disk: limit on files": disks.file_limit,
    **forgery.TRIALS,
    **hostile.TRIALS,
}
# How often a kind comes up for once of the others.
OFTEN = {"kill: rounds": 4, "kill: train": 4, "twins: rounds": 2, "twins: train": 2, "disk: full": 4,
         "disk: limit on files": 2, "flip: part": 4, **dict.fromkeys(hostile.TRIALS, 3)}  # fmt: skip

WHAT_IT_IS = """\
Each trial disturbs a copy of one small run (two rounds, recorded engine, tiny policy; for kills, twins and full disks a
run that begins), and then runs `passrl rounds` and `passrl verify` until it is the undisturbed run: the same bytes of
every part, list, manifest and policy, the same losses and results.

- *same*: at once, without a word.
- *repaired*: an error or a finding that names what is wrong, and doing what its message says led there. A hostile name:
  refused with exit code 2 before anything is made.
- *named*: a forgery that is a whole dataset in itself, with another content: `verify` names it.
- *failed*: a traceback, a signal, a control character on the terminal, another result, a message that names no repair,
  a repair that does not help.

In half of the trials with damaged or forged files all that was made from them is removed first, so that they are used
again."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A trial that was made. number: which of its kind, from 0."""

    kind: str
    number: int
    how: str
    words: str


def plan(kinds: Sequence[str], seed: int) -> Iterator[tuple[str, int]]:
    """Kinds and numbers without end: in each turn every kind as `OFTEN` says, shuffled."""
    counts: Counter[str] = Counter()
    chances = random.Random(seed)
    while True:
        turn = [kind for kind in kinds for _ in range(OFTEN.get(kind, 1))]
        chances.shuffle(turn)
        for kind in turn:
            yield kind, counts[kind]
            counts[kind] += 1


def attempt(arena: Arena, kind: str, number: int, *, seed: int) -> Done:
    """One trial, in a folder that is removed unless it failed."""
    name = re.sub(r"\W+", "-", f"{kind} {number}")
    try:
        outcome = KINDS[kind](arena, random.Random(f"{seed} {kind} {number}"), name)
    except Exception as error:  # noqa: BLE001 - of the trial itself; the others go on
        outcome = failed(f"the trial raised {error!r}")
    if outcome.survived:
        shutil.rmtree(arena.folder / name, ignore_errors=True)
    return Done(kind=kind, number=number, how=outcome.how, words=outcome.words)


def attempts(arena: Arena, wanted: Iterator[tuple[str, int]], *, seed: int, jobs: int, until: float) -> Iterator[Done]:
    """Trials as they end, so many at once, until the time is over."""
    with ThreadPoolExecutor(jobs) as pool:
        running = set()
        while True:
            while len(running) < jobs and time.monotonic() < until and (next_one := next(wanted, None)):
                running.add(pool.submit(attempt, arena, *next_one, seed=seed))
            if not running:
                return
            ready = {future for future in running if future.done()}
            running -= ready
            yield from (future.result() for future in ready)
            if not ready:
                time.sleep(0.02)


def page(done: Sequence[Done], *, seed: int, seconds: float, jobs: int) -> str:
    """The page about the trials: a row a kind, then what failed."""
    counts = Counter((each.kind, each.how) for each in done)
    survived = sum(each.how != "failed" for each in done)
    hows = ("same", "repaired", "named", "failed")
    lines = [
        "# Chaos",
        "",
        f"Written by `make chaos`: {len(done)} trials, {survived} survived; seed {seed}, {jobs} at once, "
        f"{seconds / 60:.0f} minutes.",
        "",
        *WHAT_IT_IS.splitlines(),
        "",
        f"| what | tried | {' | '.join(hows)} |",
        f"| --- | --- |{' --- |' * len(hows)}",
    ]
    for kind in [kind for kind in KINDS if any(each.kind == kind for each in done)]:
        numbers = [counts[kind, how] for how in hows]
        lines.append(f"| {kind} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    total = [sum(each.how == how for each in done) for how in hows]
    lines.append(f"| **all** | {len(done)} | {' | '.join(map(str, total))} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    options = _parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kinds = [kind for kind in KINDS if options.only in kind]
    if not disks.disks_of_their_own():
        kinds = [kind for kind in kinds if kind != "disk: full"]
    before = _journal(options.journal)
    known = {(each.kind, each.number) for each in before}
    wanted = (each for each in plan(kinds, options.seed) if each not in known)
    if options.trials is not None:
        listed = [each for _, each in zip(range(options.trials), wanted, strict=False)]
        wanted = iter(listed)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="passrl-chaos-"))
    done = list(before)
    for each in attempts(
        _arena(folder), wanted, seed=options.seed, jobs=options.jobs, until=started + 60 * options.minutes
    ):
        done.append(each)
        if each.how == "failed":
            print(json.dumps(asdict(each)), flush=True)
        if options.journal:
            with options.journal.open("a") as journal:
                journal.write(json.dumps(asdict(each)) + "\n")
    seconds = time.monotonic() - started
    if options.report:
        options.report.write_text(page(done, seed=options.seed, seconds=seconds, jobs=options.jobs))
    wrong = [each for each in done if each.how == "failed"]
    print(f"{len(done)} trials, {len(wrong)} failed" + (f"; what is left of them is in {folder}" if wrong else ""))
    if not wrong:
        shutil.rmtree(folder)
    return int(bool(wrong))


def _arena(folder: Path) -> Arena:
    from tests.conftest import make_tiny_model

    return Arena(folder, make_tiny_model(folder / "tiny", seed=1))


def _journal(path: Path | None) -> list[Done]:
    if path is None or not path.exists():
        return []
    return [Done(**json.loads(line)) for line in path.read_text().splitlines()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=25.0, help="no trial begins later (default 25)")
    parser.add_argument("--trials", type=int, help="no more trials than this")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once (default 2)")
    parser.add_argument("--only", default="", help="only kinds whose name contains this")
    parser.add_argument("--journal", type=Path, help="a file that remembers the trials made, to go on from")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
