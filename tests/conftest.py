"""Models every pipeline test may use: tiny, random, seeded, made once a session."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import pytest

CHARACTERS = string.digits + string.ascii_lowercase + "+-=?.: \n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def make_tiny_model(folder: Path, *, seed: int, characters: str = CHARACTERS, max_positions: int = 512) -> str:
    """A Llama of 2 layers and head_dim 32 over single characters, with random weights and a chat template.

    Weights are ten times the usual width: the distributions are then far from uniform, so wrong logprobs show.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", *characters]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_positions,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random character model (seed 1)."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="session")
def tiny_model_updated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same architecture and tokenizer as `tiny_model`, other weights (seed 2)."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "updated", seed=2)


@pytest.fixture(scope="session")
def tiny_model_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes further models: tiny_model_factory(seed=3, characters="abc")."""

    def make(**options: object) -> str:
        return make_tiny_model(tmp_path_factory.mktemp("models") / "model", **options)  # type: ignore[arg-type]

    return make
