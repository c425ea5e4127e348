"""Names that mean something to a path, a pattern or a terminal: taken literally, or refused by name.

Nothing is written outside of the run's folder, and no control character reaches the terminal.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

from tests.chaos.arena import Arena, Ended, Place
from tests.chaos.outcome import Outcome, failed

NAMES = (
    "..", ".", "../up", "a/b", "/tmp/passrl-chaos-absolute", "[x]", "a*b", "a?b", "{x}", "a b", " ", "-x", "--help",
    "%20", "#", "a::b", "~", "$HOME", "a\\b", "new\nline", "\x1b[31mred", "bell\x07", "\u202eright", "\x9bcsi",
    "x" * 300, "prompts", "round-000", "_done", "NUL", "é",
)  # fmt: skip


def hostile_folder(arena: Arena, chances: random.Random, name: str, *, hostile: str) -> Outcome:
    """The run's folder has the name."""
    place = arena.place(name, run=hostile, complete=False) if hostile not in {"..", ".", "../up"} else None
    if place is None or hostile.startswith("/"):
        return Outcome(how="same")
    end = place.rounds()
    if end.fault or end.code:
        return _refusal(end)
    difference = arena.difference(place)
    return failed(f"complete, but {difference}") if difference else _looked_at(place)


def hostile_benchmark(arena: Arena, chances: random.Random, name: str, *, hostile: str) -> Outcome:
    """A benchmark has the name."""
    return _with_setting(arena, name, "eval.benchmarks", hostile, {"source": "prompts.jsonl", "limit": 4})


def hostile_signal(arena: Arena, chances: random.Random, name: str, *, hostile: str) -> Outcome:
    """A signal has the name."""
    return _with_setting(arena, name, "signals", hostile, {"signal": "format", "pattern": "1", "workers": 1})


def hostile_source(arena: Arena, chances: random.Random, name: str, *, hostile: str) -> Outcome:
    """The file of prompts has the name."""
    place = arena.place(name, complete=False)
    source = place.folder / f"{hostile}.jsonl"
    try:
        (place.folder / "prompts.jsonl").rename(source)
    except OSError:
        return Outcome(how="same")  # the file system itself has no such name
    return _ran(place, "--set", f"prompts.source={json.dumps(str(source))}", "--set", "eval.benchmarks={}")


def hostile_id(arena: Arena, chances: random.Random, name: str, *, hostile: str) -> Outcome:
    """A prompt's id, its text and its answer are the name."""
    place = arena.place(name, complete=False)
    prompts = place.folder / "prompts.jsonl"
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    rows[0] |= {"prompt_id": hostile, "answer": hostile}
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return _ran(place)


def _with_setting(arena: Arena, name: str, section: str, key: str, value: dict[str, object]) -> Outcome:
    place = arena.place(name, complete=False)
    table = "".join(f"{option} = {json.dumps(setting)}\n" for option, setting in value.items())
    with Path(place.config).open("a") as config:
        config.write(f"\n[{section}.{json.dumps(key)}]\n{table}")
    return _ran(place)


def _ran(place: Place, *more: str) -> Outcome:
    """Run it: complete and verified, or refused; and nothing beside the run's folder is new."""
    before = _beside(place)
    end = place.rounds(*more)
    new = {path for path in _beside(place) - before if not path.endswith(".log")}
    if new:
        return failed(f"written outside of the run: {sorted(new)}")
    return _refusal(end) if end.fault or end.code else _looked_at(place)


def _beside(place: Place) -> set[str]:
    """Paths around the run's folder."""
    near = [path for path in place.folder.rglob("*") if place.run not in (path, *path.parents)]
    return {str(path) for path in [*near, *Path("/tmp").glob("passrl-chaos-absolute*")]}


def _refusal(end: Ended) -> Outcome:
    """A refusal before anything is made: exit code 2."""
    if end.fault:
        return failed(f"rounds {end.fault}")
    return Outcome(how="repaired", words=end.text[-300:]) if end.code == 2 else failed(f"late: {end.text[-600:]}")


def _looked_at(place: Place) -> Outcome:
    """Everything that shows a run shows it, without a control character."""
    shaped = str(place.run / "round-000" / "shaped")
    for command in (("verify", str(place.run)), ("status", str(place.run)), ("inspect", shaped), ("lint", shaped)):
        end = place.passrl(*command)
        if end.fault or (end.code and command[0] == "verify"):
            return failed(f"{command[0]} {end.fault or end.text[-600:]}")
    return Outcome(how="same")


TRIALS = {
    f"name: {what}": trial
    for what, trial in {
        "run folder": hostile_folder,
        "benchmark": hostile_benchmark,
        "signal": hostile_signal,
        "prompt file": hostile_source,
        "prompt id": hostile_id,
    }.items()
}


def drawn(arena: Arena, chances: random.Random, name: str, *, trial) -> Outcome:
    """A trial with a name drawn at random."""
    hostile = chances.choice(NAMES)
    outcome = trial(arena, chances, name, hostile=hostile)
    return outcome if outcome.survived else failed(f"{hostile[:40]!r}: {outcome.words}")


TRIALS = {kind: partial(drawn, trial=trial) for kind, trial in TRIALS.items()}
