"""kill -9 on a node of two CPU "cards": its engines, ranks, torchrun and client, until twenty have died.

    python -m tests.chaos.nodes --report docs/explanation/measured/node-kills.md       # part of `make chaos`

One `passrl run` is killed about ten times at moments drawn from a seed, started again after each death of the client,
and held against a run that nobody touched. Exit code 1 where a run differs, fails, or leaves anything running.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.cli.parser import main as passrl
from tests.e2e.node import Client, Kind, steps_saved
from tests.e2e.project import Project, make_project
from tests.e2e.test_kills import made_by
from tests.processes import Process

LIMIT = 1e-6  # how far a weight may be from the undisturbed run's
MOST_RUNS = 5
# Answers take a moment, so that engines have requests open when they are killed; steps enough to die between them.
MORE = ("--set", "engine.extra.latency=3.0", "--set", "train.updates=8")

NAMES = {"engine": "engines", "rank": "ranks", "torchrun": "torchrun", "client": "the client"}
WHAT_IT_IS = f"""\
Each run is one `passrl run` on two CPU "cards" (two engines, an update of eight steps on two gloo ranks, a checkpoint
each step), started again when its client was killed. At the end its datasets and evaluation must be those of a run that
nobody touched, its weights within {LIMIT:g} of that run's, and `passrl verify` content. After each death of a client,
and at the end, no process and no temporary file may be left."""


@dataclass(frozen=True, kw_only=True)
class Killed:
    """process: engine, rank, torchrun or client; doing: what the run was at."""

    process: str
    doing: str


@dataclass(kw_only=True)
class Disturbed:
    """A run that was killed and completed. wrong: what is not as it should be."""

    kills: list[Killed] = field(default_factory=list)
    difference: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """One run, its clients one after another, and what was killed of it."""

    def __init__(self, project: Project, out: str, mark: str, chances: random.Random) -> None:
        self._start: Callable[[], Client] = lambda: Client(project, out, mark, MORE)
        self._out, self._chances = out, chances
        self._client = self._start()
        self.result = Disturbed()

    def carry_out(self) -> None:
        """The kills, in the order of a run's stages."""
        for _ in range(2):
            self._kill("engine", _is_engine, after=3.0)
        self._kill_client(after=2.0)
        self._kill("rank", _is_rank, after=1.0)
        first = {process.pid for process in self._client.its(_is_torchrun)}
        self._kill("torchrun", lambda process: process.is_torchrun and process.pid not in first, after=3.0)
        self._client.reach(lambda: self._client.its(_is_rank))
        self._kill_client(after=1.0)
        for _ in range(2):
            saved = steps_saved(self._out)
            self._client.reach(lambda saved=saved: steps_saved(self._out) > saved)
            self._kill("rank", _is_rank, after=0.1)
        self._kill("engine", _is_engine, after=0.1)  # asleep
        self._client.reach(lambda: Path(self._out, "round-000", "policy").exists() and not self._client.its(_is_rank))
        self._kill("engine", _is_engine, after=1.0)
        self._client.finish()
        self._client.everything_ended()

    def _kill(self, name: str, kind: Kind, *, after: float) -> None:
        """One that came too late does not count."""
        if self._client.kill_one(kind, self._chances, after=after):
            self.result.kills.append(Killed(process=name, doing=self._doing()))

    def _kill_client(self, *, after: float) -> None:
        time.sleep(self._chances.uniform(0, after))
        alive, doing = self._client.process.is_alive(), self._doing()
        self._client.kill()
        self._client.everything_ended()
        if alive:
            self.result.kills.append(Killed(process="client", doing=doing))
        self._client = self._start()

    def _doing(self) -> str:
        folder = Path(self._out, "round-000")
        if (folder / "policy").exists():
            return "evaluation"
        if (folder / "train").exists() or self._client.its(lambda p: p.is_rank or p.is_torchrun):
            return f"update, after step {steps_saved(self._out)}"
        if any((folder / "rollouts").glob("_manifest-*")):
            return "signals"
        return "rollouts" if (folder / "rollouts").exists() else "start"


def _is_engine(process: Process) -> bool:
    return process.is_engine


def _is_rank(process: Process) -> bool:
    return process.is_rank


def _is_torchrun(process: Process) -> bool:
    return process.is_torchrun


def disturbed(project: Project, undisturbed: str, folder: Path, *, seed: str) -> Disturbed:
    """One run, killed and completed, against the undisturbed one."""
    out = str(folder / "run")
    folder.mkdir()
    campaign = Campaign(project, out, str(folder), random.Random(seed))
    result = campaign.result
    try:
        campaign.carry_out()
    except AssertionError as error:
        result.wrong.append(str(error)[-600:])
        return result
    expected, found = made_by(undisturbed), made_by(out)
    result.wrong += [f"{name} differ" for name in ("datasets", "eval") if found[name] != expected[name]]
    result.difference = largest_difference(undisturbed, out)
    if not result.difference <= LIMIT:
        result.wrong.append(f"a weight differs by {result.difference:.2g}")
    if passrl(["verify", out]) != 0:
        result.wrong.append("verify found something")
    return result


def largest_difference(one: str, other: str) -> float:
    """Between two weights of the same name, after round 0."""
    from safetensors.torch import load_file

    first, second = (load_file(Path(out, "round-000", "policy", "model.safetensors")) for out in (one, other))
    if first.keys() != second.keys():
        return float("inf")
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def page(runs: Sequence[Disturbed], *, seed: int, seconds: float) -> str:
    """The page about the kills."""
    return "\n".join([*_head(runs, seed=seed, seconds=seconds), "", *_kills(runs), "", *_runs(runs)]) + "\n"


def _head(runs: Sequence[Disturbed], *, seed: int, seconds: float) -> Iterator[str]:
    counts = Counter(kill.process for run in runs for kill in run.kills)
    failed = sum(bool(run.wrong) for run in runs)
    told = ", ".join(f"{counts[name]} of {words}" for name, words in NAMES.items() if counts[name])
    written = (
        f"Written by `python -m tests.chaos.nodes` (part of `make chaos`): {sum(counts.values())} kills in {len(runs)} "
        f"runs, {failed} of which failed; seed {seed}, {seconds / 60:.0f} minutes."
    )
    yield "# Kills on a node"
    for paragraph in (written, f"SIGKILL to {told}. {WHAT_IT_IS}"):
        yield from ("", textwrap.fill(paragraph, 120, break_on_hyphens=False))


def _kills(runs: Sequence[Disturbed]) -> Iterator[str]:
    yield "| kill | run | of | during |"
    yield "| --- | --- | --- | --- |"
    kills = [(number, kill) for number, run in enumerate(runs) for kill in run.kills]
    for count, (number, kill) in enumerate(kills, start=1):
        yield f"| {count} | {number} | {kill.process} | {kill.doing} |"


def _runs(runs: Sequence[Disturbed]) -> Iterator[str]:
    yield "| run | kills | largest difference of a weight | result |"
    yield "| --- | --- | --- | --- |"
    for number, run in enumerate(runs):
        result = "; ".join(run.wrong).replace("\n", " ").replace("|", "/") or "same data, nothing left running"
        yield f"| {number} | {len(run.kills)} | {run.difference:.1g} | {result} |"


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20, help="no further run begins after so many (default 20)")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    options = parser.parse_args(argv)
    from tests.conftest import make_tiny_model

    started = time.monotonic()
    runs: list[Disturbed] = []
    with tempfile.TemporaryDirectory(prefix="passrl-nodes-") as name:
        folder = Path(name)
        project = make_project(folder, make_tiny_model(folder / "tiny", seed=1))
        client = Client(project, project.out, name, MORE)
        client.finish()
        client.everything_ended()
        while sum(len(run.kills) for run in runs) < options.kills and len(runs) < MOST_RUNS:
            seed = f"{options.seed} {len(runs)}"
            runs.append(disturbed(project, project.out, folder / f"run-{len(runs)}", seed=seed))
            print(runs[-1], flush=True)
    if options.report:
        options.report.write_text(page(runs, seed=options.seed, seconds=time.monotonic() - started))
    return int(any(run.wrong for run in runs) or sum(len(run.kills) for run in runs) < options.kills)


if __name__ == "__main__":
    sys.exit(main())
