"""Steps of a whole part at once are those of `cut_steps`, rollout by rollout, on tokens that nobody would sample."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops.shards import ROLLOUTS
from pipelines.engines.text import bytes_of_characters
from pipelines.signals.cutting import cut_part, token_bytes
from pipelines.signals.steps import cut_steps, tokenizer_decode

WORDS = ["a", "\n", "\n\n", " \n", "é", "\u00a0", "\u2028", "𝄞", "ab\n\nc", "\ufffd", "=", "<", "\x85"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level tokenizer: every byte, some words, an added token with a space, and a special one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    letters = {byte: letter for letter, byte in bytes_of_characters().items()}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    spelled = ("".join(letters[byte] for byte in word.encode()) for word in WORDS)
    vocabulary |= {word: 256 + i for i, word in enumerate(word for word in spelled if len(word) > 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<added one>\n\n")])
    tokenizer.add_special_tokens(["<end>"])
    found = tmp_path_factory.mktemp("bytes")
    tokenizer.save(str(Path(found) / "tokenizer.json"))
    return str(found)


def part(folder: str, *, seed: int, rows: int = 300) -> pa.Table:
    """Rollouts of random tokens: words in bytes and whole, lone bytes, special ids, ids that there are not."""
    rng = random.Random(seed)
    size = len(token_bytes(folder) or []) - 1
    decode = tokenizer_decode(folder)
    made = []
    for row in range(rows):
        ids: list[int] = []
        for _ in range(rng.choice([0, 1, 3, 12, 40])):
            kind = rng.random()
            if kind < 0.6:
                ids += rng.choice(WORDS).encode()
            elif kind < 0.9:
                ids.append(rng.randrange(256, size))
            elif kind < 0.95:
                ids += [size - 1] * rng.choice([1, 2, 9])
            else:
                ids.append(rng.choice([rng.randrange(256), size + 5]))
        text = decode(tuple(ids))
        text = rng.choice([text, text, text[: rng.randrange(len(text) + 1)], "not what the tokens spell\n\nb"])
        made.append({"rollout_id": f"g/{row}", "token_ids": ids, "text": text})
    fields = [ROLLOUTS.field(name) for name in ("rollout_id", "token_ids", "text")]
    return pa.Table.from_pylist(made, schema=pa.schema(fields))


@pytest.mark.parametrize("separator", ["\n", "\n\n", "é", "a", "<added one>"])
@pytest.mark.parametrize("seed", range(3))
def test_a_part_is_cut_as_its_rollouts_one_by_one(folder: str, seed: int, separator: str) -> None:
    rollouts, decode = part(folder, seed=seed), tokenizer_decode(folder)
    expected = [
        cut_steps(row["token_ids"], row["text"], separator=separator, decode=decode) for row in rollouts.to_pylist()
    ]
    assert cut_part(rollouts, separator=separator, folder=folder) == expected
    assert cut_part(rollouts.slice(7, 50), separator=separator, folder=folder) == expected[7:57]
    assert cut_part(rollouts.slice(0, 0), separator=separator, folder=folder) == []


def test_rows_are_cut_together_only_as_far_as_memory_allows(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = part(folder, seed=9)
    whole = cut_part(rollouts, separator="\n", folder=folder)
    monkeypatch.setattr("pipelines.signals.cutting._TOKENS", 30)
    assert cut_part(rollouts, separator="\n", folder=folder) == whole


def test_a_tokenizer_that_is_not_of_bytes_alone_is_asked_token_by_token(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.WordLevel(vocab={"▁a": 0, "\n": 1, "▁b": 2, "?": 3}, unk_token="?"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert token_bytes(str(tmp_path)) is None
    ids = [[0, 1, 2], [0], []]
    texts = [tokenizer_decode(str(tmp_path))(tuple(row)) for row in ids]
    rollouts = pa.table({"token_ids": pa.array(ids, pa.list_(pa.int32())), "text": texts})
    cut = cut_part(rollouts, separator="\n", folder=str(tmp_path))
    assert [steps.ends for steps in cut] == [[2, 3], [1], []]
    assert [steps.texts for steps in cut] == [["a", " b"], ["a"], []]
