"""What each token says, in bytes: from a tokenizer.json's own vocabulary, without decoding.

A decoder shows a part of a character as U+FFFD; the bytes are what the model wrote. Two families are known:
vocabularies of byte-level BPE, whose characters stand for bytes, and those whose entries are text (SentencePiece with
byte fallback, WordPiece, whole words).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pipelines.engines.text import bytes_of_characters
from pipelines.inspect.tokenizer import NoTokenizerError, find_tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: steps of a decoder that leave a token's text as it is; Strip takes white space off the whole text's ends
_WHOLE = ("Fuse", "Strip", "BPEDecoder", "CTC")
_KNOWN = ("ByteLevel", "ByteFallback", "Metaspace", "Replace", "WordPiece", *_WHOLE)


class TokenTextsError(PassError, ValueError):
    """A tokenizer whose tokens' bytes cannot be told."""


@dataclass(frozen=True)
class TokenTexts:
    """The bytes of every token id, and which ids are special tokens, whose bytes are their names."""

    pieces: Mapping[int, bytes]
    special: frozenset[int]

    def of(self, token_ids: NDArray[np.int32]) -> tuple[bytes, NDArray[np.uint32], NDArray[np.uint8]]:
        """The bytes of these tokens end to end, how many each has, and 1 where one is special.

        An id that the vocabulary has not is shown as a special token of the name <|id N|>.
        """
        ids = token_ids.tolist()
        pieces = [self.pieces.get(index) for index in ids]
        special = [piece is None or index in self.special for index, piece in zip(ids, pieces, strict=True)]
        shown = [f"<|id {i}|>".encode() if piece is None else piece for i, piece in zip(ids, pieces, strict=True)]
        lengths = np.array([len(piece) for piece in shown], np.uint32)
        return b"".join(shown), lengths, np.array(special, np.uint8)


def dataset_texts(dataset: CompleteDataset, *, folder: str | None = None) -> tuple[TokenTexts | None, str]:
    """The dataset's token texts, and a sentence about where they are from, or about why there are none.

    folder: see `find_tokenizer`. Raises, for a `folder` alone: what `find_tokenizer` does, TokenTextsError.
    """
    try:
        place = find_tokenizer(dataset, folder=folder)
        return read_token_texts(place), f"Token texts are those of the tokenizer in {folder or place}."
    except (NoTokenizerError, TokenTextsError) as error:
        if folder is not None:
            raise
        return None, (
            f"No tokenizer was found ({error}): rollouts are shown as their decoded text, without a colour for each "
            "token. Make the file again with --tokenizer."
        )


def read_token_texts(folder: str | Path) -> TokenTexts:
    """The token texts of a tokenizer's folder. Raises TokenTextsError, which says what is there instead."""
    file = Path(folder) / "tokenizer.json"
    try:
        return token_texts(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise TokenTextsError(f"{folder} has no tokenizer.json") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenTextsError(f"{file} is no tokenizer that can be read ({type(error).__name__}: {error})") from error


def token_texts(tokenizer: Mapping[str, Any]) -> TokenTexts:
    """The token texts of a tokenizer.json's content. Raises TokenTextsError for a decoder that is not known."""
    steps = list(_steps(tokenizer.get("decoder")))
    unknown = next((step["type"] for step in steps if step["type"] not in _KNOWN), None)
    if unknown is not None:
        raise TokenTextsError(f"its tokenizer decodes by {unknown!r}, whose bytes a token are not known here")
    names = [step["type"] for step in steps]
    byte_level = "ByteLevel" in names or (
        not steps and any(step["type"] == "ByteLevel" for step in _steps(tokenizer.get("pre_tokenizer")))
    )
    model = tokenizer["model"]["vocab"]
    vocabulary = model.items() if isinstance(model, Mapping) else ((entry[0], i) for i, entry in enumerate(model))
    characters = bytes_of_characters()
    pieces = {
        int(index): _byte_level(name, characters) if byte_level else _text(name, steps) for name, index in vocabulary
    }
    added = tokenizer.get("added_tokens") or []
    pieces |= {int(token["id"]): str(token["content"]).encode() for token in added}
    return TokenTexts(pieces, frozenset(int(token["id"]) for token in added if token.get("special")))


def _byte_level(name: str, characters: Mapping[str, int]) -> bytes:
    """An entry's bytes; one with a character that stands for no byte is text itself."""
    found = [characters.get(character) for character in name]
    return name.encode() if None in found else bytes(byte for byte in found if byte is not None)


def _text(name: str, steps: Sequence[Mapping[str, Any]]) -> bytes:
    """An entry's bytes after the decoder's steps, each of which sees this token alone."""
    for step in steps:
        kind = step["type"]
        if kind == "ByteFallback" and (found := _BYTE.fullmatch(name)):
            return bytes([int(found[1], 16)])
        if kind == "Replace" and "String" in step["pattern"]:
            name = name.replace(step["pattern"]["String"], step["content"])
        elif kind == "Metaspace":
            name = name.replace(step["replacement"], " ")
        elif kind == "WordPiece":
            name = name.removeprefix(step["prefix"]) if name.startswith(step["prefix"]) else f" {name}"
        elif kind == "BPEDecoder":
            name = name.replace(step["suffix"], " ")
    return name.encode("utf-8", "surrogatepass")


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a decoder or pre-tokenizer, those within a sequence one by one."""
    if decoder is None:
        return
    inner = decoder.get("decoders") or decoder.get("pretokenizers")
    if decoder["type"] == "Sequence":
        for step in inner or ():
            yield from _steps(step)
    else:
        yield decoder
