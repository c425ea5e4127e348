"""A tiny random Llama, options under which it moves, shaped datasets in the test's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.rows import VOCABULARY, Row, write_shaped
from trainer.options import TrainOptions


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama: 2 layers, 64 wide, 32 tokens, context 64; its weights are far from uniform."""
    return random_llama(tmp_path_factory.mktemp("policy"), tied=False)


@pytest.fixture(scope="session")
def tied_policy_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with one tensor for the embedding of inputs and outputs."""
    return random_llama(tmp_path_factory.mktemp("tied"), tied=True)


def random_llama(folder: Path, *, tied: bool) -> str:
    """Writes a random Llama into a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"the": "tokenizer"}')
    (folder / "tokenizer_config.json").write_text("{}")
    return str(folder)


@pytest.fixture
def small_options() -> TrainOptions:
    """Options under which a tiny model moves in few steps."""
    return TrainOptions(lr=1e-3, warmup_steps=2, batch_size=2, micro_batch_tokens=64, device="cpu", tensorboard=False)


@pytest.fixture
def make_shaped(tmp_path: Path) -> Callable[..., str]:
    """Writes a shaped dataset under the test's folder: make_shaped(parts, name=..., sampling=..., carried=...)."""

    def make(parts: Sequence[Sequence[Row]], *, name: str = "shaped", **changes: Any) -> str:
        return write_shaped(str(tmp_path / name), parts, **changes)

    return make


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    """Tiny tensors gain nothing from threads, and a busy machine makes them wait for each other.

    Of a module, so that it holds for what a module's fixtures train too: other threads give other last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
