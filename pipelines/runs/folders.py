"""Where a run keeps what a round is made of and makes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

#: what a round's folder holds beside shaped datasets
ROUND_FOLDERS = ("prompts", "rollouts", "signals", "train", "policy", "eval", "sweep")
_ROUND = re.compile(r"round-(\d{3,})")


def round_folder(run: str, round_index: int, *names: str) -> str:
    """A folder of one round of a run, or of what lies in it.

    >>> round_folder("runs/demo", 0, "signals", "outcome")
    'runs/demo/round-000/signals/outcome'
    """
    return posixpath.join(run, f"round-{round_index:03d}", *names)


def round_of(folder: str) -> int | None:
    """The round whose folder has this name; None for another folder.

    >>> round_of("round-000"), round_of("round-1000"), round_of("start"), round_of("round-7")
    (0, 1000, None, None)
    """
    found = _ROUND.fullmatch(folder)
    return int(found[1]) if found else None


def rounds_among(folders: Iterable[str]) -> list[int]:
    """The rounds that have a folder of these names, in order: names are not, from a thousand rounds on.

    >>> rounds_among(["round-1000", "round-101", "start"])
    [101, 1000]
    """
    return sorted(index for name in folders if (index := round_of(name)) is not None)
