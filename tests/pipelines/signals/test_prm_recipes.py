"""The documented recipes against the model cards: the ids and the formula that the cards name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pass_ops.shards import PROMPTS
from pipelines.engines.base import EngineOptionError, EngineOptions
from pipelines.engines.text import class_tokens
from pipelines.signals import SignalOptionError, build_signal
from tests.conftest import byte_tokenizer
from tests.pipelines.signals.mistral import mistral_tokenizer

TASK = "Janet has 3 apples and buys 4. How many?"
STEPS = ["Step 1: She has 3 + 4 = 7 apples.", "Step 2: The answer is: 7"]
# docs/signals.md and PrmSignal
SHEPHERD = {"tag": " ки", "between": "\n", "template": "{prompt} {steps}", "tokens": ["▁-", "▁+"]}


@pytest.fixture(scope="module")
def mistral() -> Any:
    return mistral_tokenizer()


@pytest.fixture(scope="module")
def shepherd(tmp_path_factory: pytest.TempPathFactory, mistral: Any) -> str:
    """A tiny random Mistral with the vocabulary of peiyi9979/math-shepherd-mistral-7b-prm."""
    from transformers import MistralConfig, MistralForCausalLM

    folder = tmp_path_factory.mktemp("shepherd")
    mistral.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(**sizes, num_key_value_heads=1, head_dim=32, vocab_size=32000, max_position_embeddings=512)
    config.initializer_range = 0.5
    torch.manual_seed(3)
    MistralForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return str(folder)


def card_scores(folder: str, tokenizer: Any) -> list[float]:
    """The code of Math-Shepherd's model card, line for line."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    good_token, bad_token, step_tag = "+", "-", "ки"
    candidate_tokens = tokenizer.encode(f"{good_token} {bad_token}")[1:]
    assert candidate_tokens == [648, 387]
    step_tag_id = tokenizer.encode(f"{step_tag}")[-1]
    assert step_tag_id == 12902
    output = "\n".join(f"{step} {step_tag}" for step in STEPS)
    input_id = torch.tensor([tokenizer.encode(f"{TASK} {output}")])
    with torch.no_grad():
        logits = model(input_id).logits[:, :, candidate_tokens]
        scores = logits.softmax(dim=-1)[:, :, 0]
        return scores[input_id == step_tag_id].tolist()


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_math_shepherd_is_scored_as_its_card_does(shepherd, mistral, make_rollouts, kind) -> None:
    options = {"kind": kind, "dtype": "float32", "kv_cache_gib": 0.25, "max_num_seqs": 8}
    signal = build_signal("prm", {"model": shepherd, "engine": options, "separator": "\n", **SHEPHERD})
    text = "\n".join(STEPS)
    rollouts = make_rollouts({"text": text, "ids": mistral(text, add_special_tokens=False).input_ids, "group_id": "g"})
    prompts = pa.Table.from_pylist([{"prompt_id": "g", "prompt": TASK, "source": "test"}], schema=PROMPTS)
    signal.check(None, {})
    signal.setup(shepherd)
    table = signal.score(rollouts, {"prompts": prompts})
    expected = card_scores(shepherd, mistral)
    np.testing.assert_allclose(table["process_scores"].to_pylist()[0], expected, atol=1e-5)
    assert len({round(score, 3) for score in expected}) == 2, "scores that tell the steps apart"


def test_qwens_prm_is_read_as_its_card_does() -> None:
    """With <think> for <extra_0>: system, task and steps in the chat template, softmax's class 1 at each tag."""
    tokenizer = byte_tokenizer()
    system = r"Please reason step by step, and put your final answer within \boxed{}."
    signal = build_signal("prm", {"model": "m", "chat": True, "system": system, "tag": "<think>"})
    ids, places = signal._read(tokenizer, TASK, STEPS)
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": TASK},
        {"role": "assistant", "content": "<think>".join(STEPS) + "<think>"},
    ]
    card = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    assert ids == tokenizer.encode(card, add_special_tokens=False)
    step_sep_id = tokenizer.encode("<think>", add_special_tokens=False)[0]
    assert places == [at for at, index in enumerate(ids) if index == step_sep_id]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["-", "+"], r"'-', which reads as another token.*Candidates: '▁-' \(id 387\)\."),
        (["▁-", "+"], r"'\+', which reads as another token.*Candidates: '▁\+' \(id 648\)\."),
        ([" -", " +"], r"' -', which is not in its vocabulary.*Candidates: '▁-' \(id 387\)\."),
        (["bad one", "good one"], r"'bad one', which is not in its vocabulary.*Give a single token"),
        (["<unk>x", "▁+"], r"not in its vocabulary"),
        (["▁+", "▁+"], r"give two different tokens"),
    ],
)
def test_tokens_that_the_model_would_never_emit_are_refused_with_candidates(shepherd, tokens, said) -> None:
    signal = build_signal("prm", {"model": shepherd, **SHEPHERD, "tokens": tokens})
    with pytest.raises(SignalOptionError, match=said):
        signal.check(None, {})


def test_engines_refuse_them_too(shepherd: str) -> None:
    from pipelines.engines import start_engine

    with pytest.raises(EngineOptionError, match="reads as another token"):
        start_engine(shepherd, EngineOptions(kind="transformers", pooling={"tokens": ["-", "+"]}))


def test_both_forms_of_a_byte_level_vocabulary_are_single_tokens() -> None:
    """RLHFlow's PRMs (Llama 3) take "+" and "-" without a space; there both forms are what a text gives."""
    tokenizer = byte_tokenizer()
    plus, minus = tokenizer("+-", add_special_tokens=False).input_ids
    assert class_tokens(tokenizer, ["-", "+"]) == [minus, plus]
    assert tokenizer.decode(class_tokens(tokenizer, ["Ġ"])) == " "
