"""Rollouts as small literal tables, and a tokenizer whose tokens may hold several characters or parts of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops.shards import ROLLOUTS


@pytest.fixture
def make_rollouts() -> Callable[..., pa.Table]:
    """rollouts(("text", [ids], **overrides of columns), ...): rows g/0, g/1, ... of one group."""

    def make(*rows: dict, group: str = "g") -> pa.Table:
        return pa.Table.from_pylist([_row(group, index, **row) for index, row in enumerate(rows)], schema=ROLLOUTS)

    return make


def _row(group: str, index: int, *, text: str = "", ids: Sequence[int] = (), **columns) -> dict:
    row = {
        "group_id": group,
        "sample_index": index,
        "rollout_id": f"{group}/{index}",
        "prompt_token_ids": [1, 2],
        "token_ids": list(ids),
        "text": text,
        "behavior_logprobs": [-0.5] * len(ids),
        "loss_mask": [True] * len(ids),
        "finish_reason": "stop",
        "seed": index,
        "answer": None,
    }
    return row | columns


#: tokens of `tokenizer_folder`, by id; the last one is special
TOKENS = ["a", "b", "c", "\n", "\n\n", ".\n\nb", "\n\n\n\n", " ", "é1", "é2", "<end>"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level tokenizer with the tokens of TOKENS: "é" is two tokens, separators stand alone and inside tokens."""
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel

    def spelled(text: str) -> str:
        return ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]

    halves = {"é1": spelled("é")[0], "é2": spelled("é")[1]}
    vocabulary = {halves.get(token) or spelled(token): i for i, token in enumerate(TOKENS[:-1])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([TOKENS[-1]])
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(Path(folder) / "tokenizer.json"))
    return str(folder)


@pytest.fixture
def ids() -> Callable[..., list[int]]:
    """Token ids of the named tokens."""
    return lambda *tokens: [TOKENS.index(token) for token in tokens]
