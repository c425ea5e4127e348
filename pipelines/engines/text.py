"""Token ids as text and text as token ids, for every engine: what a completion says, where it stops, control tokens.

Special tokens are those that a tokenizer marks so: decoding leaves them out, and their names in a text become them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops.support.nearest import advice
from pipelines.engines.errors import EngineOptionError

# What a decoder shows for bytes that are not (yet) a character, and how many tokens such bytes may be spread over.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_OPEN_TOKENS = 8

TokenIds = Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True)
class Stops:
    """What ends a completion. strings: looked for in its text. tokens: name -> id of special tokens, never in it."""

    strings: tuple[str, ...]
    tokens: Mapping[str, int]

    def found(self, token_ids: Sequence[int], text: str) -> str | None:
        """The stop that this completion ends with or contains; None where there is none."""
        ended = [name for name, token in self.tokens.items() if token in token_ids[-1:]]
        return next(iter([*ended, *(string for string in self.strings if string in text)]), None)


def bytes_of_characters() -> dict[str, int]:
    r"""The byte that each character of a byte-level vocabulary stands for: GPT-2's table, read backwards.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for the characters from U+0100 on.

    >>> table = bytes_of_characters()
    >>> table["A"], table["\u0120"], len(table)
    (65, 32, 256)
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


@lru_cache(maxsize=8)
def special_tokens(tokenizer: Any) -> Mapping[str, int]:
    """Name -> id of a tokenizer's special tokens."""
    return {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def lowest_and_highest(token_ids: TokenIds) -> tuple[int, int]:
    """The least and the greatest of token ids."""
    if isinstance(token_ids, np.ndarray):
        return int(token_ids.min()), int(token_ids.max())
    return min(token_ids), max(token_ids)


@lru_cache(maxsize=8)
def library_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer as the library tokenizers has it: gives what a call of it gives, in two thirds of the time."""
    tokenizer("")  # sets what a tokenizer.json may say otherwise: no truncation, no padding
    return tokenizer.backend_tokenizer


@lru_cache(maxsize=4)
def spelling_tokenizer(tokenizer: Any) -> Any:
    """A copy (of the library tokenizers) that reads the names of special tokens as ordinary text.

    A copy, because transformers' split_special_tokens switches the one tokenizer that all threads share.
    """
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    return copy


def unspelled(tokenizer: Any, text: str) -> str:
    """The characters of a text that no token of it spells, in order: they have none, or the unknown token.

    A vocabulary without bytes silently drops what it does not know, and one of words or word pieces the whole of
    a word that it does not know. Spaces do not count, nor does what the tokenizer's own normalization changes,
    for a lower-case model is meant to see lower case.
    """
    return "" if _spells_bytes(tokenizer) else _unspelled(tokenizer, text)


@lru_cache(maxsize=8)
def _spells_bytes(tokenizer: Any) -> bool:
    """Whether a vocabulary spells any character by its bytes, the only way to spell these, or refuses it aloud."""
    try:
        return not _unspelled(tokenizer, "\U0010fffd\U000f8a3c\u3402\u0a59")
    except Exception:  # noqa: BLE001 - what the library raises for a character and no unknown token
        return True


def _unspelled(tokenizer: Any, text: str) -> str:
    library, unknown = library_tokenizer(tokenizer), _unknown_token(tokenizer)
    normal = text if library.normalizer is None else library.normalizer.normalize_str(text)
    encoded = library.encode(normal, add_special_tokens=False)
    spelled = np.array([character.isspace() for character in normal], np.bool_)
    for index, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if index != unknown or normal[begin:end] == library.id_to_token(index):
            spelled[begin:end] = True
    return "".join(normal[at] for at in np.flatnonzero(~spelled))


@lru_cache(maxsize=8)
def _unknown_token(tokenizer: Any) -> int | None:
    """The id that stands for what a vocabulary does not have; None where there is none, as in one of bytes.

    The vocabulary's own where it names one: GPT-2's tokenizer calls its end token so, which no other text becomes.
    """
    library = library_tokenizer(tokenizer)
    if not hasattr(library.model, "unk_token"):  # a unigram vocabulary, whose own is only in its JSON
        unknown: int | None = json.loads(library.to_str())["model"]["unk_id"]
        return unknown
    name = library.model.unk_token
    return library.token_to_id(name) if name else None


def class_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """The ids of vocabulary entries whose logits are a classifier's classes, in the form a model emits them.

    A vocabulary may have an entry twice, at the start of a word and within one ("▁+" and "+" of Mistral's): the one
    meant is that which the tokenizer makes of the entry's text. Raises EngineOptionError for any other entry.
    """
    vocabulary = tokenizer.get_vocab()

    def emitted(index: int) -> bool:
        return list(tokenizer(tokenizer.decode([index]), add_special_tokens=False)["input_ids"]) == [index]

    for token in tokens:
        if token not in vocabulary or not emitted(vocabulary[token]):
            core = token.strip(" ▁Ġ")
            alike = sorted(name for name in vocabulary if name.strip(" ▁Ġ") == core and emitted(vocabulary[name]))
            fact = "reads as another token" if token in vocabulary else "is not in its vocabulary"
            candidates = ", ".join(f"{name!r} (id {vocabulary[name]})" for name in alike)
            raise EngineOptionError(
                f"tokens holds {token!r}, which {fact}: the model's tokenizer would never make it of a text, and the "
                f"logits would be those of something else. "
                + (f"Candidates: {candidates}." if alike else "Give a single token as tokenizer.json has it.")
            )
    return [vocabulary[token] for token in tokens]


def completion_text(tokenizer: Any, token_ids: TokenIds, *, keep: Sequence[str] = ()) -> str:
    """The text of a completion without special tokens, except those of the names `keep`."""
    if keep:
        dropped = {index for name, index in special_tokens(tokenizer).items() if name not in keep}
        token_ids = [int(index) for index in token_ids if int(index) not in dropped]
    return str(tokenizer.decode(token_ids, skip_special_tokens=not keep, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=64)
def stops(tokenizer: Any, stop: tuple[str, ...], keep: tuple[str, ...] = ()) -> Stops:
    """How stop strings are looked for: a special token by its id, since a completion's text does not show it.

    Raises EngineOptionError for a stop string that has a special token only as a part, unless `keep` shows it in the
    text; and for a name in `keep` that is no token.
    """
    if not (stop or keep):
        return Stops((), {})
    special = special_tokens(tokenizer)
    for name in keep:
        if name not in special and len(tokenizer(name, add_special_tokens=False)["input_ids"]) != 1:
            raise EngineOptionError(f"keep_special_tokens holds {name!r}, which is no token; {advice(name, special)}")
    strings = tuple(string for string in stop if string not in special)
    for string in strings:
        hidden = next((name for name in special if name in string and name not in keep), None)
        if hidden is not None:
            raise EngineOptionError(
                f"stop holds {string!r}: {hidden!r} in it is a special token, which the text of a completion does not "
                f"show, so the string would never be found. Stop at {hidden!r} alone, or name it in "
                "keep_special_tokens."
            )
    return Stops(strings, {string: special[string] for string in stop if string in special})


def ends_inside_character(tokenizer: Any, token_ids: TokenIds) -> bool:
    """Whether the text of these tokens ends with bytes that are no character yet (or with U+FFFD itself)."""
    special = set(special_tokens(tokenizer).values())
    tail: list[int] = []
    for index in reversed(token_ids):
        if len(tail) == _OPEN_TOKENS:
            break
        if index not in special:
            tail.append(int(index))
    return completion_text(tokenizer, tail[::-1]).endswith(REPLACEMENT)


def tokens_to_stop(
    tokenizer: Any, token_ids: Sequence[int], strings: Sequence[str], *, keep: Sequence[str] = (), min_tokens: int = 0
) -> int | None:
    """How many tokens of a completion there are once its text contains one of the strings; None where it never does.

    min_tokens: a string that is complete by then does not count.
    """

    def text(tokens: int) -> str:
        return completion_text(tokenizer, token_ids[:tokens], keep=keep)

    def contains(tokens: int) -> bool:
        return any(text(tokens).find(string, max(0, passed - len(string) + 1)) >= 0 for string in strings)

    passed = len(text(min_tokens))
    if not contains(len(token_ids)):
        return None
    return bisect_left(range(len(token_ids) + 1), True, lo=min(min_tokens + 1, len(token_ids)), key=contains)
