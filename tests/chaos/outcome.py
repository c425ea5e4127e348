"""What becomes of a disturbed run: the same result, or a named error whose repair leads there. Else it failed."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.arena import Arena, Place

REPAIRS = 8
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
    """Do what a message says: remove what it names, bring back what it misses, run commands in backticks.

    Of several findings each is followed by itself. Returns the arguments for the next run, or None where the message
    names nothing to do.
    """
    findings = [line for line in text.splitlines() if line.startswith("error: ")]
    told = [_followed(sentence, place=place, origin=origin) for sentence in findings or [text]]
    known = [more for more in told if more is not None]
    return sum(known, ()) if known else None


def _followed(text: str, *, place: Place, origin: Place) -> tuple[str, ...] | None:
    """See `follow`, of one sentence."""
    if "the old options" in text:  # the options are the old ones, so it is an input that changed
        inputs = [place.folder / "model", place.folder / "prompts.jsonl"]
        if sum(_restore(path, place=place, origin=origin) for path in inputs):
            return ()
    named = [path for path in _named(text, place.folder) if path not in {place.run, place.folder}]
    done = bool(re.search(r"again\b", text))
    if re.search(r"\b([Rr]emove|[Dd]elete)\b", text):
        for path in _doomed(text, named):
            _remove(path)
            done = True
    if re.search(r"\b([Rr]estore|[Bb]ring back|[Cc]opy|[Ss]ave)\b", text):
        done = sum(_restore(path, place=place, origin=origin) for path in named) > 0 or done
    for command in dict.fromkeys(re.findall(r"`(passrl [^`]+)`", text)):
        if not command.startswith(LOOKS):
            place.passrl(*(place.config if word == "CONFIG" else word for word in shlex.split(command)[1:]))
            done = True
    if "--overwrite" in text:
        return ("--overwrite",)
    return () if done else None


def _doomed(text: str, named: list[Path]) -> list[Path]:
    """What a sentence says to remove: "it", the first thing named; "the folder" of that; else all that is named."""
    doomed = named[:1] if re.search(r"\b[Rr]emove (it|both|the folder|the manifest)\b", text) else list(named)
    if "the folder" in text:
        return [path.parent if path.is_file() else path for path in doomed]
    if re.search(r"\b(the manifest|both)\b", text):
        doomed += [manifest for path in named[:1] for manifest in path.parent.glob("_manifest-*.json")]
    return doomed


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
