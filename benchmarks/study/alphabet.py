"""The tokens of the study's world, one a character: the demo's, from whose teacher the models start."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.demo.arithmetic import CHARACTERS

#: the letters of the operations of each step: one or more, so that steps are of unequal length
GROUPS = ("a", "b", "c", "de", "f", "g", "hi", "j")
LETTERS = "".join(GROUPS)
ASK, SAME, ANSWER, LINE = "?", "=", "A", "\n"
PAD, EOS = 0, 1
#: every token by its id
WORDS = ("<pad>", "<eos>", *CHARACTERS)
TOKEN = {word: index for index, word in enumerate(WORDS)}
#: rows of the models' embeddings
VOCABULARY = len(WORDS)
_STARTERS = frozenset(TOKEN[word] for word in (*(group[0] for group in GROUPS), ANSWER))


def ids_of(words: str) -> list[int]:
    """The token ids of a text."""
    return [TOKEN[character] for character in words]


def text(ids: Sequence[int]) -> str:
    """Token ids as text, special tokens left out."""
    return "".join(WORDS[token] if 1 < token < len(WORDS) else "" for token in ids)


def spans(ends: Sequence[int]) -> list[tuple[int, int]]:
    """Each step's tokens, [first, end), from where the steps end."""
    return list(zip((0, *ends), ends, strict=False))


def step_ends(completion: Sequence[int]) -> tuple[int, ...]:
    """Exclusive token ends of the steps. One begins at the first letter of each group and at ``A``, and at a ``=`` that
    begins a line, which is padding; behind an operation ``=`` goes on (``a+9=66``).
    """
    starts = [
        at
        for at, token in enumerate(completion)
        if at and (token in _STARTERS or (token == TOKEN[SAME] and completion[at - 1] == TOKEN[LINE]))
    ]
    return (*starts, len(completion)) if completion else ()
