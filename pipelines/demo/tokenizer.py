"""Character tokenizers of the arithmetic task: one token a character, so every text round-trips exactly."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipelines.demo.arithmetic import CHARACTERS

PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
#: follows each step in a PRM's input, as in Qwen2.5-Math-PRM
STEP_TAG = "<extra_0>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of policy and teacher: pad 0, eos 1, then the characters of the task.

    Nothing is added around a text; a character outside the task is an error of the encoder, never an unknown token.
    """
    return _character_tokenizer([PAD_TOKEN, EOS_TOKEN, *CHARACTERS], special=[PAD_TOKEN, EOS_TOKEN])


def build_prm_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the PRM: its step tag is id 0, so that every other id differs from the policy's by one.

    A caller who feeds a PRM the policy's token ids instead of its text is then wrong at every token, not at none.
    """
    return _character_tokenizer([STEP_TAG, PAD_TOKEN, EOS_TOKEN, *CHARACTERS], special=[STEP_TAG, PAD_TOKEN, EOS_TOKEN])


def _character_tokenizer(vocabulary: list[str], *, special: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose words are single characters."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **({"extra_special_tokens": [STEP_TAG]} if STEP_TAG in special else {}),
    )
