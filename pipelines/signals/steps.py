"""Reasoning steps of a completion: cut on the text, their ends found on the policy's own token ids.

Array legend: _T tokens of one completion.

A step ends with its separator. A token that spans a separator belongs to the earlier step; a step without text (white
space is none) merges into the one before, leading ones into the first; so does a step without a token of its own;
whatever follows the text (special tokens, a stop string) joins the last step; a tail cut off by length is a step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from pipelines.engines.text import REPLACEMENT
from pipelines.models.source import local_model

# A UTF-8 character has at most four bytes, so at most four tokens; more of them open at once are no character.
MAX_OPEN_TOKENS = 8

Decode = Callable[[tuple[int, ...]], str]


@dataclass(frozen=True)
class Steps:
    """The steps of one completion.

    ends: exclusive token ends, strictly increasing, the last is T. texts: without separators.
    """

    ends: list[int]
    texts: list[str]


@lru_cache(maxsize=4)
def tokenizer_decode(folder: str) -> Decode:
    """Token ids -> text without special tokens, by the folder's tokenizer.json; remembers short windows.

    Kept per process: parts of one stage share what one has learned.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(local_model(folder)) / "tokenizer.json"))

    @lru_cache(maxsize=1 << 16)
    def decode(token_ids: tuple[int, ...]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    return decode


def token_text_ends(token_ids_T: Sequence[int], decode: Decode) -> tuple[str, list[int]]:
    """The decoded text, and per token how many of its characters are complete once that token is there.

    Decodes short windows that begin at a token whose text is known, so that the cost is linear and a tokenizer's
    treatment of leading spaces does not matter. A character of several tokens counts at its last one.
    """
    ids_T = tuple(token_ids_T)
    pieces: list[str] = []
    ends_T: list[int] = []
    window = read = done = 0  # decode from `window`; tokens before `read` gave the first `done` characters
    known = text = ""
    for t in range(len(ids_T)):
        text = decode(ids_T[window : t + 1])
        complete = len(text.rstrip(REPLACEMENT))
        ends_T.append(max(done + complete - len(known), ends_T[-1] if ends_T else 0))
        if len(known) < len(text) == complete or t + 1 - read >= MAX_OPEN_TOKENS:
            pieces.append(text[len(known) :])
            done += max(0, len(text) - len(known))
            window, read = read, t + 1
            known = decode(ids_T[window:read])
            ends_T[-1] = max(done, ends_T[-1])
    if read < len(ids_T):
        pieces.append(text[len(known) :])
    return "".join(pieces), ends_T


class GivenStepsError(ValueError):
    """Steps given as text are not what the tokens spell, or a token spans two of them."""


def ends_of_steps(token_ids_T: Sequence[int], texts: Sequence[str], *, between: str, decode: Decode) -> list[int]:
    r"""Exclusive token ends of steps that are given as text, by the rule of `cut_steps`; the last is T.

    token_ids_T: the ids of the texts joined by `between`, which belongs to the step before it. Unlike `cut_steps`, no
    step is merged: each keeps the label or score it came with.

    >>> letters = lambda ids: "".join("\nab"[i] for i in ids)
    >>> ends_of_steps([1, 0, 2, 0, 2], ["a", "b\nb"], between="\n", decode=letters)
    [2, 5]

    Raises:
        GivenStepsError: the ids decode to another text, or a step has no token of its own.
    """
    decoded, text_ends_T = token_text_ends(token_ids_T, decode)
    if decoded != between.join(texts):
        raise GivenStepsError("the tokens spell another text")
    ends: list[int] = []
    after = 0
    for text in texts[:-1]:
        after += len(text) + len(between)
        ends.append(_token_end(text_ends_T, after))
    ends.append(len(token_ids_T))
    if any(end <= before for before, end in pairwise([0, *ends])):
        raise GivenStepsError("a step has no token of its own")
    return ends


def _token_end(text_ends_T: Sequence[int], characters: int) -> int:
    """How many tokens it takes until so many characters of the text are complete."""
    return bisect_left(text_ends_T, characters) + 1


def cut_steps(token_ids_T: Sequence[int], text: str, *, separator: str, decode: Decode) -> Steps:
    r"""The steps of one completion; text is the rollout's (it may end before the tokens do: at a stop string).

    >>> letters = lambda ids: "".join("\nab"[i] for i in ids)
    >>> cut_steps([1, 0, 2, 2, 0, 0, 1], "a\nbb\n\na", separator="\n", decode=letters)
    Steps(ends=[2, 6, 7], texts=['a', 'bb', 'a'])
    """
    if len(token_ids_T) == 0:
        return Steps([], [])
    decoded, text_ends_T = token_text_ends(token_ids_T, decode)
    # Where bytes that are no character made the two differ, the ids decide.
    text = text if decoded.startswith(text) else decoded
    parts = text.split(separator)
    after = accumulate(len(part) + len(separator) for part in parts[:-1])
    return merged(parts, [*(_token_end(text_ends_T, at) for at in after), len(token_ids_T)], separator=separator)


def merged(parts: Sequence[str], ends: Sequence[int], *, separator: str) -> Steps:
    """The steps of a text that was split at its separators, where each part's separator ends at ends[i] tokens.

    A part without text, or without a token of its own, belongs to the step before it, leading ones to the first.
    ends: the last is the number of tokens; without any there is no step.
    """
    if ends[-1] == 0:
        return Steps([], [])
    texts: list[str] = []
    found: list[int] = []
    between = ""  # what lies between the last step's text and this part
    for part, end in zip(parts, ends, strict=True):
        blank = not part.strip()
        if not blank and (not found or end > found[-1]):
            texts.append(part)
            found.append(end)
            between = separator
        elif found:
            found[-1] = max(end, found[-1])
            if blank:
                between += part + separator
            else:
                texts[-1] += between + part
                between = separator
    if not found:
        return Steps([ends[-1]], [separator.join(parts)])
    return Steps([*found[:-1], ends[-1]], texts)
