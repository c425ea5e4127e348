"""An engine that says what a test wrote down, and a tokenizer whose sampled ids are not what their text encodes to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.engines.base import RequestRejected, Sample, SampleRequest


class Scripted:
    """Answers each request with the next of `says`: (token ids, finish_reason), or an exception."""

    def __init__(self, tokenizer: Any, says: list[Any], *, max_model_len: int = 64) -> None:
        self.tokenizer = tokenizer
        self.says = says
        self.max_model_len = max_model_len
        self.asked: list[SampleRequest] = []

    def submit(self, request: SampleRequest) -> Future[Sample]:
        self.asked.append(request)
        future: Future[Sample] = Future()
        said = self.says.pop(0)
        if isinstance(said, RequestRejected):
            future.set_exception(said)
            return future
        ids, reason = said
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        logprobs = -0.25 * np.arange(1, len(ids) + 1, dtype=np.float32)
        future.set_result(Sample(token_ids=np.array(ids, np.int32), logprobs=logprobs, finish_reason=reason, text=text))
        return future


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Characters and the one merge "ab": the text "ab" is one token (12), though a policy may sample a (2), b (3)."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", *"ab=7<eos>"]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))} | {"ab": 12}
    tokenizer = Tokenizer(models.BPE(ids, [("a", "b")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>")


@pytest.fixture
def scripted(tokenizer: Any) -> Callable[..., Scripted]:
    def make(*says: Any, max_model_len: int = 64) -> Scripted:
        return Scripted(tokenizer, list(says), max_model_len=max_model_len)

    return make
