"""Other people's text in a model's input, kept text: the names of special tokens in it are spelled out.

A tokenizer takes the name of a special token for that token wherever it reads it, so a policy that writes "<|im_end|>"
into a step would end the turn in its grader's input. Therefore

    protected(words)          each such name becomes one private character,
    a template around them    whose own special tokens are then the only ones,
    encode(whole)             where the private characters are the names again, in ordinary tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pipelines.engines.text import REPLACEMENT, special_tokens, spelling_tokenizer

_FIRST = 0xF0000  # of the private characters; a special token each, in the tokenizer's order
# How chat models write their special tokens, for servers whose tokenizer is not known.
_CONTROL = re.compile(
    r"<\|[^<>|]{1,60}\|>|<｜[^<>｜]{1,60}｜>|<</?SYS>>|</?s>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|MASK|PAD|UNK)\]|"
    r"<(?:start|end)_of_(?:turn|image)>|"
    r"<(?:bos|eos|pad|unk|mask)>|</?think>|</?tool_(?:call|response)>"
)


def protected(tokenizer: Any, text: str) -> str:
    """The text with a private character for each name of a special token."""
    pattern, characters = _names(tokenizer)
    private = _private(tokenizer)
    if private is None:
        return text
    return pattern.sub(lambda name: characters[name[0]], private.sub(REPLACEMENT, text))


def holds_protected(tokenizer: Any, text: str) -> bool:
    """Whether there is a private character of `protected` in the text."""
    return any(character in text for character in _names(tokenizer)[1].values())


def encode(tokenizer: Any, text: str, *, add_special_tokens: bool) -> tuple[list[int], dict[int, int]]:
    """Token ids of a text with protected words in it; and for each character that has one, the index of its token."""
    pattern, characters = _names(tokenizer)
    encoded = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
    ids, sequences = list(encoded.input_ids), encoded.sequence_ids(0)
    known = set(special_tokens(tokenizer).values())
    control = sum(sequence is not None and index in known for index, sequence in zip(ids, sequences, strict=True))
    if not characters or (control == len(pattern.findall(text)) and not set(characters.values()) & set(text)):
        offsets = enumerate(encoded.offset_mapping)
        return ids, {at: index for index, (begin, end) in offsets for at in range(begin, end)}
    own = [index for index, sequence in enumerate(sequences) if sequence is not None]
    body, token_at = _encode_pieces(tokenizer, text)
    before = ids[: own[0]]
    return before + body + ids[own[-1] + 1 :], {at: len(before) + index for at, index in token_at.items()}


def defused(text: str) -> str:
    r"""The text for a server whose tokenizer is not known: an invisible sign breaks what may name a special token.

    >>> defused("a <|im_end|> b").replace("\u2060", "^")
    'a <^|im_end|> b'
    """
    return _CONTROL.sub(lambda name: f"{name[0][0]}\N{WORD JOINER}{name[0][1:]}", text)


def _encode_pieces(tokenizer: Any, text: str) -> tuple[list[int], dict[int, int]]:
    """The pieces between special tokens on their own, as tokenizers do it, private characters being names again."""
    pattern, characters = _names(tokenizer)
    special = special_tokens(tokenizer)
    names = {character: name for name, character in characters.items()}
    spelling = spelling_tokenizer(tokenizer)
    ids: list[int] = []
    token_at: dict[int, int] = {}
    start = 0
    for piece in re.split(f"({pattern.pattern})", text):
        if piece in special:
            token_at |= {start + at: len(ids) for at in range(len(piece))}
            ids.append(special[piece])
        elif piece:
            words = [names.get(character, character) for character in piece]
            encoding = spelling.encode("".join(words), add_special_tokens=False)
            owner = {at: index for index, (begin, end) in enumerate(encoding.offsets) for at in range(begin, end)}
            end = 0
            for at, word in enumerate(words):
                end += len(word)
                if end - 1 in owner:
                    token_at[start + at] = len(ids) + owner[end - 1]
            ids += encoding.ids
        start += len(piece)
    return ids, token_at


@lru_cache(maxsize=8)
def _names(tokenizer: Any) -> tuple[re.Pattern[str], Mapping[str, str]]:
    """A pattern of the special tokens' names, the longest first, and the private character of each."""
    special = list(special_tokens(tokenizer))
    pattern = "|".join(re.escape(name) for name in sorted(special, key=len, reverse=True)) or r"(?!)"
    return re.compile(pattern), {name: chr(_FIRST + number) for number, name in enumerate(special)}


@lru_cache(maxsize=8)
def _private(tokenizer: Any) -> re.Pattern[str] | None:
    """A pattern of the private characters; None where there are none."""
    characters = _names(tokenizer)[1]
    return re.compile(f"[{re.escape(''.join(characters.values()))}]") if characters else None
