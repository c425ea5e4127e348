"""What becomes of a disturbed run: the same result, or a named error whose repair leads there. Else it failed."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.arena import Arena, Place

REPAIRS = 5
# Commands that only look.
LOOKS = ("passrl status", "passrl verify", "passrl inspect", "passrl lint")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """how: same, repaired, named or failed; words: the first thing the project said, or what it did wrong."""

    how: str
    words: str = ""

    @property
    def survived(self) -> bool:
        return self.how != "failed"


def failed(words: str) -> Outcome:
    return Outcome(how="failed", words=words)


def settle(arena: Arena, place: Place) -> Outcome:
    """Run the whole again and verify it, doing what the messages say, until it is the undisturbed run."""
    said: list[str] = []
    more: tuple[str, ...] = ()
    for _ in range(REPAIRS):
        end = place.rounds(*more)
        if end.fault:
            return failed(f"rounds {end.fault}")
        if end.code == 0:
            end = place.verify()
            if end.fault:
                return failed(f"verify {end.fault}")
            if end.code == 0:
                difference = arena.difference(place)
                if difference:
                    return failed(f"rounds and verify are content, but {difference}; before: {said[:1]}")
                return Outcome(how="repaired" if said else "same", words=said[0] if said else "")
        said.append(_sentence(end.text))
        told = follow(end.text, place=place, origin=arena.origin)
        if told is None:
            return failed(f"no repair is named: {said[-1]}")
        more = told
    return failed(f"what is told does not help: {said}")


def follow(text: str, *, place: Place, origin: Place) -> tuple[str, ...] | None:
    """Do what a message says: commands in backticks, removing what it names, bringing back what it misses.

    Returns the arguments for the next run, or None where the message names nothing to do.
    """
    done, more = False, ()
    commands = [c for c in re.findall(r"`(passrl [^`]+)`", text) if not c.startswith(LOOKS)]
    inputs = [place.folder / "model", place.folder / "prompts.jsonl"]
    named = [path for path in _named(text, place.folder) if path != place.run and path != place.folder]
    if re.search(r"\b(the manifest|both)\b", text):
        named += [manifest for path in list(named) for manifest in path.parent.glob("_manifest-*.json")]
    for command in dict.fromkeys(commands):
        arguments = [place.config if word == "CONFIG" else word for word in shlex.split(command)[1:]]
        place.passrl(*arguments)
        done = True
    if re.search(r"\b[Rr]emove|\b[Dd]elete", text):
        for path in named:
            _remove(path.parent if "remove the folder" in text and path.is_file() else path)
            done = done or bool(named)
    if re.search(r"\b([Rr]estore|[Bb]ring back|[Cc]opy|[Ss]ave the model again)", text):
        for path in named:
            done = _restore(path, place=place, origin=origin) or done
    if "the old options" in text and sum(_restore(path, place=place, origin=origin) for path in inputs):
        return ()  # the options are the old ones, so it is an input that changed
    if "--overwrite" in text:
        done, more = True, ("--overwrite",)
    if re.search(r"again\b", text):
        done = True
    return more if done else None


def _named(text: str, folder: Path) -> list[Path]:
    """The paths inside a folder that a text names, in order, each once."""
    found = re.findall(re.escape(str(folder)) + r"[^\s,;()'\"`]*", text)
    return [Path(name.rstrip(":.")) for name in dict.fromkeys(found)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _restore(path: Path, *, place: Place, origin: Place) -> bool:
    """Bring something back from what a careful user has saved: the undisturbed run and its inputs."""
    saved = origin.folder / path.relative_to(place.folder)
    if not saved.exists() or _bytes(saved) == _bytes(path):
        return False
    _remove(path)
    if saved.is_dir():
        shutil.copytree(saved, path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(saved, path)
    return True


def _bytes(path: Path) -> dict[str, bytes]:
    """All that is in a file or folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


def _sentence(text: str) -> str:
    """The last lines of what was printed, without progress."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(r"\s+(start|round \d+): ", line)]
    return "\n".join(lines[-4:])[-700:]
