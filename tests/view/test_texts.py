"""Token bytes against the library that encodes and decodes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipelines.engines.text import bytes_of_characters
from pipelines.view.texts import TokenTexts, TokenTextsError, read_token_texts, token_texts

CORPUS = ["hello world", "naïve café — 数学 🙂 𝔸", "def f(x):\n\treturn x ** 2\n"] * 3


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens(["→ plain"])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama's: a space is U+2581, and what has no entry falls back to bytes."""
    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehlorw", "▁hello"]
    vocabulary = {name: index for index, name in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


BYTE_LEVEL = byte_level()
BYTE_LEVEL_TEXTS = token_texts(json.loads(BYTE_LEVEL.to_str()))


def shown(texts: TokenTexts, ids: list[int]) -> bytes:
    return texts.of(np.array(ids, np.int32))[0]


@given(st.text())
def test_bytes_of_a_byte_level_vocabulary_are_the_text_that_was_encoded(text):
    assert shown(BYTE_LEVEL_TEXTS, BYTE_LEVEL.encode(text).ids) == text.encode()


@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=30))
def test_any_tokens_have_the_bytes_that_the_decoder_shows(ids):
    """The decoder replaces what is no character, and leaves nothing else out."""
    decoded = BYTE_LEVEL.decode(ids, skip_special_tokens=False)
    assert shown(BYTE_LEVEL_TEXTS, ids).decode("utf-8", "replace") == decoded


def test_a_character_of_several_tokens_is_cut_into_its_bytes():
    ids = BYTE_LEVEL.encode("🙃").ids
    _, lengths, special = BYTE_LEVEL_TEXTS.of(np.array(ids, np.int32))
    assert len(ids) > 1
    assert lengths.sum() == 4
    assert not special.any()


def test_special_tokens_are_marked_and_unknown_ids_named():
    content, lengths, special = BYTE_LEVEL_TEXTS.of(np.array([BYTE_LEVEL.token_to_id("<|end|>"), 99_999], np.int32))
    assert content == b"<|end|><|id 99999|>"
    assert lengths.tolist() == [7, 12]
    assert special.tolist() == [1, 1]
    assert BYTE_LEVEL.token_to_id("→ plain") not in BYTE_LEVEL_TEXTS.special


def test_the_table_of_bytes_is_the_one_that_transformers_writes():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert bytes_of_characters() == {character: byte for byte, character in bytes_to_unicode().items()}


def test_a_vocabulary_of_text_falls_back_to_bytes():
    tokenizer = sentencepiece()
    texts = token_texts(json.loads(tokenizer.to_str()))
    ids = [tokenizer.token_to_id(name) for name in ("▁hello", "▁", "w", "<0xC3>", "<0xA9>", "<0xF0>")]
    assert shown(texts, ids) == b" hello w\xc3\xa9\xf0"
    assert shown(texts, ids[:5]).decode() == tokenizer.decode(ids[:5])


def test_an_unknown_decoder_is_refused_by_name():
    with pytest.raises(TokenTextsError, match="'Reversed'"):
        token_texts({"decoder": {"type": "Reversed"}, "model": {"vocab": {}}})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}'])
def test_a_damaged_tokenizer_is_refused_by_its_file(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenTextsError, match=r"tokenizer\.json is no tokenizer"):
        read_token_texts(tmp_path)
    with pytest.raises(TokenTextsError, match=r"has no tokenizer\.json"):
        read_token_texts(tmp_path / "elsewhere")
