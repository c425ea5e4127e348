"""Other people's text in a model's input, kept text: the names of special tokens in it are spelled out.

A tokenizer takes the name of a special token for that token wherever it reads it, so a policy that writes "<|im_end|>"
into a step would end the turn in its grader's input. Therefore

    protected(words)          each such name becomes one private character,
    a template around them    whose own special tokens are then the only ones,
    encode(whole)             where the private characters are the names again, in ordinary tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

from pipelines.engines.text import REPLACEMENT, library_tokenizer, special_tokens, spelling_tokenizer

_FIRST = 0xF0000  # of the private characters; a special token each, in the tokenizer's order
_NOTHING = r"(?!)"  # a pattern that matches nowhere
# How chat models write their special tokens, for servers whose tokenizer is not known.
_CONTROL = re.compile(
    r"<\|[^<>|]{1,60}\|>|<｜[^<>｜]{1,60}｜>|<</?SYS>>|</?s>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|MASK|PAD|UNK)\]|"
    r"<(?:start|end)_of_(?:turn|image)>|"
    r"<(?:bos|eos|pad|unk|mask)>|</?think>|</?tool_(?:call|response)>"
)


def protected(tokenizer: Any, text: str) -> str:
    """The text with a private character for each name of a special token."""
    names = _names(tokenizer)
    return names.pattern.sub(lambda name: names.characters[name[0]], names.private.sub(REPLACEMENT, text))


def all_protected(tokenizer: Any, texts: Sequence[str]) -> Sequence[str]:
    """`protected` of each text; most texts of a policy hold no name, which one look at them all shows."""
    names, joined = _names(tokenizer), "\n".join(texts)
    if names.private.search(joined) or names.pattern.search(joined):
        return [protected(tokenizer, text) for text in texts]
    return texts


def holds_protected(tokenizer: Any, text: str) -> bool:
    """Whether there is a private character of `protected` in the text."""
    return _names(tokenizer).private.search(text) is not None


def encode(
    tokenizer: Any, text: str, *, add_special_tokens: bool, characters: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """Token ids of a text with protected words in it; and for each of the characters the index of its token.

    characters: indices in the text, rising. Of a character's tokens the last counts; -1 where it has none.
    """
    names = _names(tokenizer)
    encoded = library_tokenizer(tokenizer).encode_batch([text], add_special_tokens=add_special_tokens)[0]
    ids, sequences = encoded.ids, encoded.sequence_ids
    first = sequences.index(0) if 0 in sequences else 0  # what a template puts before and after belongs to no sequence
    own = ids[first : first + sequences.count(0)]
    control = sum(map(names.ids.__contains__, own))
    if not names.characters or (control == len(names.pattern.findall(text)) and not names.private.search(text)):
        places = _places(encoded.offsets[first : first + len(own)], characters)
    else:
        ids[first : first + len(own)], places = _encode_pieces(tokenizer, text, characters)
    return ids, [place if place < 0 else first + place for place in places]


def defused(text: str) -> str:
    r"""The text for a server whose tokenizer is not known: an invisible sign breaks what may name a special token.

    >>> defused("a <|im_end|> b").replace("\u2060", "^")
    'a <^|im_end|> b'
    """
    return _CONTROL.sub(lambda name: f"{name[0][0]}\N{WORD JOINER}{name[0][1:]}", text)


def _encode_pieces(tokenizer: Any, text: str, characters: Sequence[int]) -> tuple[list[int], list[int]]:
    """`encode` of the pieces between special tokens on their own, as tokenizers do, private characters being names."""
    special, spelling = special_tokens(tokenizer), spelling_tokenizer(tokenizer)
    pattern, named, _, _ = _names(tokenizer)
    names = {character: name for name, character in named.items()}
    ids: list[int] = []
    places: list[int] = []
    start = 0
    for piece in re.split(f"({pattern.pattern})", text):
        within = characters[bisect_left(characters, start) : bisect_left(characters, start + len(piece))]
        if piece in special:
            places += [len(ids)] * len(within)
            ids.append(special[piece])
        elif piece:
            words = [names.get(character, character) for character in piece]
            ends = list(accumulate(map(len, words)))
            encoded = spelling.encode("".join(words), add_special_tokens=False)
            found = _places(encoded.offsets, [ends[at - start] - 1 for at in within])
            places += [place if place < 0 else len(ids) + place for place in found]
            ids += encoded.ids
        start += len(piece)
    return ids, places


def _places(spans: Sequence[tuple[int, int]], characters: Sequence[int]) -> list[int]:
    """The index of the last span that holds each character, -1 for none. spans: (begin, end), begins not falling.

    >>> _places([(0, 2), (2, 3), (2, 3), (3, 3), (4, 6)], [1, 2, 3, 5])
    [0, 2, -1, 4]
    """
    found = []
    for character in characters:
        place = bisect_right(spans, character, key=itemgetter(0)) - 1
        while place >= 0 and spans[place][0] == spans[place][1]:
            place -= 1
        found.append(place if place >= 0 and character < spans[place][1] else -1)
    return found


class _Names(NamedTuple):
    """How a tokenizer's special tokens are found: their names, the longest first, the private character of each, these
    characters, and the ids.
    """

    pattern: re.Pattern[str]
    characters: Mapping[str, str]
    private: re.Pattern[str]
    ids: frozenset[int]


@lru_cache(maxsize=8)
def _names(tokenizer: Any) -> _Names:
    special = special_tokens(tokenizer)
    pattern = "|".join(re.escape(name) for name in sorted(special, key=len, reverse=True)) or _NOTHING
    characters = {name: chr(_FIRST + number) for number, name in enumerate(special)}
    private = f"[{re.escape(''.join(characters.values()))}]" if characters else _NOTHING
    return _Names(re.compile(pattern), characters, re.compile(private), frozenset(special.values()))
