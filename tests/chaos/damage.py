"""Damage to one file of a finished run, of each kind: a flipped bit, a lost end, nothing left of it, gone.

In half of the trials all that was made from the file is removed as well, so that the run has to use it again.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos.arena import Arena, Place
from tests.chaos.outcome import Outcome, settle

# Kind of a file -> the pattern of its path in the project's folder.
FILES = {
    "part": r"/part-[^/]*\.parquet$",
    "list of parts": r"/_parts-[^/]*$",
    "manifest": r"/_manifest-[^/]*\.json$",
    "marker": r"/_done/[^/]*\.json$",
    "attempt": r"/_attempts/[^/]*\.json$",
    "spec": r"/_dataset\.json$",
    "run record": r"/_run\.json$",
    "lineage": r"/lineage\.json$",
    "results": r"/results\.json$",
    "training's record": r"/train/_(train|done)\.json$",
    "metrics log": r"/metrics\.jsonl$",
    "checkpoint's marker": r"/state/step-\d+\.json$",
    "checkpoint": r"/state/step-\d+/.*",
    "policy's weights": r"/policy/[^/]*\.safetensors$",
    "policy's tokenizer": r"/policy/tokenizer[^/]*\.json$",
    "policy's config": r"/policy/(generation_)?config\.json$",
    "policy's chat template": r"/policy/chat_template\.jinja$",
    "model to start from": r"^model/[^/]*$",
    "prompts": r"^prompts\.jsonl$",
}
STAGES = ("prompts", "rollouts", "signals", "shaped", "train", "policy", "eval")

Damage = Callable[[Path, random.Random], None]


def flip(path: Path, chances: random.Random) -> None:
    """One bit becomes the other."""
    content = bytearray(path.read_bytes())
    content[chances.randrange(len(content))] ^= 1 << chances.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chances: random.Random) -> None:
    """The end of the file is lost; now and then all of it."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(chances.choice([0, chances.randrange(size)]))


def delete(path: Path, chances: random.Random) -> None:
    path.unlink()


DAMAGES: dict[str, Damage] = {"flip": flip, "cut": cut, "delete": delete}


def damaged(arena: Arena, chances: random.Random, name: str, *, kind: str, damage: Damage) -> Outcome:
    """Damage a file of a kind, drawn at random, and run on."""
    place = arena.place(name)
    path = chances.choice(files(place, kind))
    damage(path, chances)
    if chances.random() < 0.5:
        remove_later(place, path)
    outcome = settle(arena, place)
    where = path.relative_to(place.folder).as_posix()
    return Outcome(how=outcome.how, words=f"{where}: {outcome.words}" if outcome.words else "")


def files(place: Place, kind: str) -> list[Path]:
    """The files of a kind that a run consists of, or was made from."""
    everything = (path for path in sorted(place.folder.rglob("*")) if path.is_file() and path.stat().st_size)
    return [path for path in everything if re.search(FILES[kind], path.relative_to(place.folder).as_posix())]


def remove_later(place: Place, path: Path) -> None:
    """What was made after the file: later stages of its round, and later rounds."""
    parts = path.relative_to(place.folder).parts
    if "eval" in parts:
        folder = path.parents[len(parts) - parts.index("eval") - 3]
        stage = parts[parts.index("eval") + 2]
        later = [folder / made for made in ("rollouts", "signals", "results.json") if stage < made]
    elif len(parts) > 2 and parts[1].startswith("round-"):
        later = [place.run / parts[1] / made for made in STAGES[STAGES.index(parts[2]) + 1 :]]
        later += [folder for folder in place.run.glob("round-*") if folder.name > parts[1]]
    else:
        later = list(place.run.glob("round-*"))
    for made in later:
        if made.is_dir():
            shutil.rmtree(made)
        else:
            made.unlink(missing_ok=True)


TRIALS = {
    f"{what}: {kind}": partial(damaged, kind=kind, damage=damage) for what, damage in DAMAGES.items() for kind in FILES
}
