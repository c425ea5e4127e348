"""The advice that follows an unknown name, the same wherever one is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 24  # names in one message at most


def advice(name: str, known: Iterable[str], *, listed: bool = False) -> str:
    """The nearest known name as a question, or all of them where none is near (or where `listed` asks for them).

    A name is also near the one that its words' initials spell.

    >>> advice("etaa", ["k", "eta", "chunk"])
    "did you mean 'eta'?"
    >>> advice("zzz", ["k", "eta"])
    "choose one of 'k', 'eta'"
    >>> advice("learning_rate", ["k", "eta", "lr"])
    "did you mean 'lr'?"
    >>> advice("etaa", ["k", "eta"], listed=True)
    "the choices are 'k', 'eta'; did you mean 'eta'?"
    """
    choices = list(known)
    names = ", ".join(map(repr, choices[:LISTED]))
    names += f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    initials = "".join(word[:1] for word in name.lower().split("_"))
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5) or [c for c in choices if c == initials]
    if not near:
        return f"choose one of {names}"
    return f"the choices are {names}; did you mean {near[0]!r}?" if listed else f"did you mean {near[0]!r}?"
