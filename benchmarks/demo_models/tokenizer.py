"""Character tokenizers of the arithmetic task: one token a character, so every text of the task round-trips exactly.

They are Qwen2 tokenizers (byte-level BPE) whose list of merges is empty: transformers 5 loads that class for every
checkpoint whose config says qwen2, whatever class tokenizer_config.json names. As with every Qwen2 tokenizer, a
character whose bytes the vocabulary lacks leaves no token; `arithmetic.parse_prompt` is what refuses such a prompt.
"""

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

from pipelines.demo.arithmetic import CHARACTERS

PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
#: follows each step in a PRM's input, as in Qwen2.5-Math-PRM
STEP_TAG = "<extra_0>"


def build_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of policy and teacher: pad 0, eos 1, then the characters of the task. It adds nothing to a text."""
    return _character_tokenizer([PAD_TOKEN, EOS_TOKEN])


def build_prm_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of the PRM: its step tag is id 0, so that every other id differs from the policy's by one.

    A caller who feeds a PRM the policy's token ids instead of its text is then wrong at every token, not at none.
    """
    return _character_tokenizer([STEP_TAG, PAD_TOKEN, EOS_TOKEN])


def token_of(character: str) -> str:
    """The vocabulary's name of a character: itself, but for the line break, which byte-level BPE writes otherwise."""
    [(name, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)
    return name


def _character_tokenizer(special: list[str]) -> Qwen2Tokenizer:
    """Special tokens first, then the characters."""
    tokens = [*special, *map(token_of, CHARACTERS)]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        unk_token=PAD_TOKEN,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **({"extra_special_tokens": [STEP_TAG]} if STEP_TAG in special else {}),
    )
