"""The advice that follows an unknown name, one for every place that refuses one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def advice(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or all of them where none is near.

    >>> advice("etaa", ["k", "eta", "chunk"])
    "did you mean 'eta'?"
    >>> advice("zzz", ["k", "eta"])
    "choose one of 'k', 'eta'"
    >>> advice("learning_rate", ["k", "eta", "lr"])
    "did you mean 'lr'?"
    """
    choices = list(known)
    initials = "".join(word[:1] for word in name.lower().split("_"))
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5) or [c for c in choices if c == initials]
    return f"did you mean {near[0]!r}?" if near else "choose one of " + ", ".join(repr(choice) for choice in choices)
