"""Small stored runs (as `inspect`'s tests make them), and a tokenizer of bytes to show them with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.engines.text import bytes_of_characters
from pipelines.models.folder import tokenizer_digest
from tests.pipelines.inspect.conftest import row, store_run

__all__ = ["row", "store_run"]


@pytest.fixture
def byte_tokenizer(tmp_path: Path) -> tuple[str, str]:
    """A folder with a byte-level tokenizer whose token b is the byte b, and 256 the special token <end>; its digest."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tokenizer = {
        "decoder": {"type": "ByteLevel"},
        "added_tokens": [{"id": 256, "content": "<end>", "special": True}],
        "model": {"type": "BPE", "vocab": bytes_of_characters() | {"<end>": 256}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder), tokenizer_digest(str(folder))
