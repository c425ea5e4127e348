"""Where a run keeps what a round is made of and makes."""

from __future__ import annotations

import posixpath

#: what a round's folder holds beside shaped datasets
ROUND_FOLDERS = ("prompts", "rollouts", "signals", "train", "policy", "eval", "sweep")


def round_folder(run: str, round_index: int, *names: str) -> str:
    """A folder of one round of a run, or of what lies in it.

    >>> round_folder("runs/demo", 0, "signals", "outcome")
    'runs/demo/round-000/signals/outcome'
    """
    return posixpath.join(run, f"round-{round_index:03d}", *names)
