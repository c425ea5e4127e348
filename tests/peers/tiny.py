"""A tiny random language model with a tokenizer of characters, and our loss of a padded batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.losses import LossInputs, loss_weights, policy_loss
from trainer.options import TrainOptions

LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789+=?."


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *LETTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def model(*, width: int = 32, layers: int = 2) -> LlamaForCausalLM:
    """Random weights, the same ones each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS) + 2, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def our_loss(
    logprobs: torch.Tensor, *, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, options: TrainOptions
) -> torch.Tensor:
    """The loss of `trainer` on a padded batch, [B, T] each."""
    counts = mask.bool()
    rows_N = counts.nonzero()[:, 0]
    per_rollout = loss_weights(counts.sum(1).numpy().astype(np.int64), aggregation=options.aggregation)
    inputs = LossInputs(
        logprobs_N=logprobs[counts], logprobs_t1_N=logprobs[counts], behavior_N=old[counts],
        advantages_N=advantages[counts], rows_N=rows_N,
        weights_N=torch.as_tensor(per_rollout[rows_N.numpy()], dtype=torch.float32),
    )  # fmt: skip
    return policy_loss(inputs, options)[0]


def saved(folder: Path, **size: int) -> str:
    """The model and its tokenizer as a folder."""
    model(**size).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)
