"""Fixtures of the engine tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from pipelines.engines import Engine, acquire, release
from tests.pipelines.engines.asking import RAW


@pytest.fixture(scope="session")
def oracle(tiny_model: str) -> Callable[..., torch.Tensor]:
    """oracle(token_ids, start=n) -> logits [len - n, V] by a plain forward pass; token n + i is drawn from row i."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()

    def logits(token_ids: Sequence[int], *, start: int) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([list(map(int, token_ids))])).logits[0, start - 1 : -1].float()

    return logits


@pytest.fixture(scope="session", autouse=True)
def _no_engine_is_left() -> Iterator[None]:
    yield
    release()


@pytest.fixture
def engine(tiny_model: str) -> Engine:
    """vLLM with the tiny model in float32."""
    import flask  # noqa: F401 - both have globals that break a careless look at every module's

    import pass_ops.estimators  # noqa: F401

    return acquire(tiny_model, RAW)
