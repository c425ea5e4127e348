"""A small finished run that nobody disturbed, copies of it to disturb, and what counts as the same result."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.e2e.killing import WITHOUT_VLLM, passrl
from tests.e2e.project import make_project

# A run that takes longer than this hangs.
LONGEST_SECONDS = 300
TIMES = ("seconds", "data_wait", "tokens_per_second", "mfu")
# How a sentence to the user begins: an error's, a finding's of verify.
SENTENCE = re.compile(r"^(passrl [a-z-]+|error|warning): ", re.MULTILINE)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code (negative: the signal) and all it printed."""

    code: int
    text: str

    @property
    def fault(self) -> str | None:
        """What no command may do, whatever it meets; None for an orderly end."""
        if self.code not in {0, 1, 2}:
            return f"ended with {self.code}: {self.text[-600:]}"
        if "Traceback (most recent call last)" in self.text:
            return f"a traceback: {self.text[-900:]}"
        if CONTROL.search(self.text):
            return f"control characters: {self.text[-600:]!r}"
        if self.code and not SENTENCE.search(self.text):
            return f"exit code {self.code} without a sentence: {self.text[-600:]}"
        return None


class Place:
    """A folder with a project and its run; the run may be anything between absent and complete."""

    def __init__(self, folder: Path, *, run: str = "run") -> None:
        self.folder = folder
        self.config = str(folder / "run.toml")
        self.run = folder / run
        self._commands = 0

    def passrl(self, *arguments: str) -> Ended:
        """Run a command to its end; one that hangs ends with the signal that stops it."""
        process, log = self.start(*arguments)
        return ended(process, log)

    def start(self, *arguments: str) -> tuple[Any, Path]:
        """Begin a command; its process and its log."""
        self._commands += 1
        log = self.folder / f"command-{self._commands}.log"
        return passrl(arguments, str(log), preload=WITHOUT_VLLM), log

    def rounds(self, *more: str) -> Ended:
        return self.passrl(*self.whole, *more)

    def verify(self) -> Ended:
        return self.passrl("verify", str(self.run))

    @property
    def whole(self) -> tuple[str, ...]:
        """The command that makes the run from its beginning to its end."""
        return ("rounds", self.config, "--out", str(self.run))


def ended(process: Any, log: Path) -> Ended:
    """How a process ended that `Place.start` began."""
    process.join(LONGEST_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    return Ended(code=process.exitcode, text=log.read_text(errors="backslashreplace"))


class Arena:
    """The undisturbed run: what it made, how long it took. Trials get copies, in folders of their own."""

    def __init__(self, folder: Path, model: str) -> None:
        origin = folder / "undisturbed"
        origin.mkdir(parents=True)
        make_project(origin, model)
        self.folder = folder
        self.origin = Place(origin)
        self.origin.rounds()  # compiles what is not compiled yet; the time of the next one counts
        shutil.rmtree(self.origin.run)
        started = time.monotonic()
        end = self.origin.rounds()
        assert end.code == 0, end.text
        self.seconds = time.monotonic() - started
        self.made = dict(made(self.origin.run))

    def place(self, name: str, *, run: str = "run", complete: bool = True) -> Place:
        """A copy of the project, with the finished run or with none."""
        folder = self.folder / name
        shutil.copytree(self.origin.folder, folder, ignore=shutil.ignore_patterns("*.log", "run"))
        if complete:
            shutil.copytree(self.origin.run, folder / run)
        return Place(folder, run=run)

    def difference(self, place: Place) -> str | None:
        """The first thing that the place's run made differently, or None."""
        found = dict(made(place.run))
        for name in sorted(self.made.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if name not in self.made:
                return f"{name} is not of this run"
            if found[name] != self.made[name]:
                return f"{name} differs"
        return None


def made(run: Path) -> Iterator[tuple[str, object]]:
    """What of a run must come out the same, by name: bytes of data and policies, and numbers that no clock enters."""
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if re.search(r"/(part-|_parts-|_manifest-|_done/)[^/]*$|/policy/[^/]+$|/results\.json$", name):
            yield name, sha256(path.read_bytes()).hexdigest()
        elif name.endswith("_dataset.json"):
            yield name, json.loads(path.read_text())["fingerprint"]
        elif name.endswith("metrics.jsonl"):
            yield name, [_without_times(line) for line in path.read_bytes().splitlines()]
        elif name == "lineage.json":
            rounds = json.loads(path.read_text())["rounds"]
            yield name, [(r.get("policy_digest"), r.get("datasets"), r.get("metrics", {}).get("eval")) for r in rounds]


def _without_times(line: bytes) -> object:
    """A line of the metrics log; as it is where it is damaged."""
    try:
        return {name: value for name, value in json.loads(line).items() if name not in TIMES}
    except ValueError:
        return line
