"""The steps of a whole part at once, for tokenizers whose tokens are bytes: `cut_steps`, without decoding each token.

A byte-level vocabulary says of each id which bytes it adds, whatever stands around it. So the bytes of a part's tokens
lie in one buffer, and a step ends at the first token that ends at or behind its separator there. Rows in which bytes
are no text (or are U+FFFD, which no decoder tells from it), and every row of other tokenizers, go by `cut_steps`.

Array legend: _N tokens of the part, _S separators of the part, _R rows.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_lengths, list_values, offsets, one_chunk
from pipelines.engines.text import REPLACEMENT, bytes_of_characters
from pipelines.models.source import local_model
from pipelines.signals.steps import Steps, cut_steps, merged, tokenizer_decode

_TOKENS = 1 << 20  # of rows that are cut together: their bytes, and where each token ends in them, are held at once


def cut_part(rollouts: pa.Table, *, separator: str, folder: str) -> list[Steps]:
    """`cut_steps` of every rollout, in order. folder: of the policy's tokenizer."""
    after_R = np.cumsum(list_lengths(rollouts["token_ids"]))
    found: list[Steps] = []
    while len(found) < len(rollouts):
        start = len(found)
        before = int(after_R[start - 1]) if start else 0
        stop = max(int(np.searchsorted(after_R, before + _TOKENS, side="right")), start + 1)
        found += _cut_rows(rollouts.slice(start, stop - start), separator=separator, folder=folder)
    return found


def _cut_rows(rows: pa.Table, *, separator: str, folder: str) -> list[Steps]:
    """The steps of rows that are few enough to hold what their tokens say."""
    ids, texts = one_chunk(rows["token_ids"]), rows["text"].to_pylist()
    pieces, first_R1 = token_bytes(folder), offsets(list_lengths(ids))
    if pieces is None:
        cut: list[list[str] | None] = [None] * len(rows)
        ends_S: list[int] = []
    else:
        content, ends_N = _spelled(pieces, list_values(ids))
        starts_R1 = np.concatenate([[0], ends_N])[first_R1]
        split_R = _split_characters(content, ends_N, first_R1)
        bounds = zip(starts_R1[:-1].tolist(), starts_R1[1:].tolist(), strict=True)
        whole = [
            None if split else _text(bytes(content[begin:end]), text)
            for (begin, end), split, text in zip(bounds, split_R.tolist(), texts, strict=True)
        ]
        cut = [None if text is None else text.split(separator) for text in whole]
        ends_S = (np.searchsorted(ends_N, _separator_ends(cut, separator, starts_R1)) + 1).tolist()
    decode, steps, used = tokenizer_decode(folder), [], 0
    for row, parts in enumerate(cut):
        first, after = int(first_R1[row]), int(first_R1[row + 1])
        if parts is None:
            steps.append(cut_steps(ids[row].as_py(), texts[row], separator=separator, decode=decode))
            continue
        ends = [*(end - first for end in ends_S[used : used + len(parts) - 1]), after - first]
        used += len(parts) - 1
        steps.append(merged(parts, ends, separator=separator))
    return steps


def _spelled(pieces: pa.LargeBinaryArray, ids_N: NDArray[np.int32]) -> tuple[memoryview, NDArray[np.int64]]:
    """The bytes of all tokens, and where each one's end. An id that the vocabulary has not says nothing."""
    nothing = len(pieces) - 1
    found = pieces.take(pa.array(np.where((ids_N >= 0) & (ids_N < nothing), ids_N, nothing)))
    _, starts, content = found.buffers()
    return memoryview(content or b""), np.frombuffer(starts, np.int64)[1 : len(found) + 1]


def _split_characters(content: memoryview, ends_N: NDArray[np.int64], first_R1: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Rows in which a token ends within a character and another says nothing, so that it may stay open for long."""
    split_R, silent_R = (np.zeros(len(first_R1) - 1, np.bool_) for _ in range(2))
    bytes_ = np.append(np.frombuffer(content, np.uint8), np.uint8(0))
    within_N = (bytes_[ends_N] & 0xC0) == 0x80
    for which_R, tokens in ((split_R, within_N), (silent_R, np.diff(ends_N, prepend=0) == 0)):
        which_R[np.searchsorted(first_R1, np.flatnonzero(tokens), side="right") - 1] = True
    return split_R & silent_R


def _text(spelled: bytes, text: str) -> str | None:
    """The text to cut: the rollout's where the tokens begin with it, else theirs; None where bytes are no text."""
    try:
        decoded = spelled.decode()
    except UnicodeDecodeError:
        return None
    if REPLACEMENT in decoded:
        return None
    return text if decoded.startswith(text) else decoded


def _separator_ends(cut: list[list[str] | None], separator: str, starts_R1: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each separator ends in the bytes of all tokens."""
    found: list[int] = []
    size = len(separator.encode())
    for parts, start in zip(cut, starts_R1.tolist(), strict=False):  # the last start is an end
        sizes = (size + (len(part) if part.isascii() else len(part.encode())) for part in (parts or [])[:-1])
        found += (start + end for end in accumulate(sizes))
    return np.array(found, np.int64)


@lru_cache(maxsize=4)
def token_bytes(folder: str) -> pa.LargeBinaryArray | None:
    """By id the bytes that a token adds to a text without special tokens, and at the end none, for unknown ids.

    None where the tokenizer is not of bytes alone, so that what a token says depends on those beside it.
    """
    from tokenizers import Tokenizer, decoders

    tokenizer = Tokenizer.from_file(str(Path(local_model(folder)) / "tokenizer.json"))
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return None
    characters = bytes_of_characters()
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    pieces = [b""] * (max(tokenizer.get_vocab().values(), default=-1) + 2)
    for name, index in tokenizer.get_vocab().items():
        if index not in special:
            known = [characters.get(character) for character in name]
            pieces[index] = name.encode() if None in known else bytes(byte for byte in known if byte is not None)
    return pa.array(pieces, pa.large_binary())
