"""The PRM signal: where its head is read, its heads against plain forward passes, vLLM against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.demo_models.prm import step_scores
from pass_ops.shards import PROMPTS
from pipelines.demo.arithmetic import PUPIL, Split, make_prompts, split_steps, write_trace
from pipelines.demo.assets import asset_folder
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel
from pipelines.models.folder import load_tokenizer
from pipelines.signals import SignalOptionError, build_signal

PRM, POLICY = str(asset_folder("prm")), str(asset_folder("policy"))
ENGINES = {
    "vllm": {"kind": "vllm", "dtype": "float32", "kv_cache_gib": 0.25, "max_num_seqs": 32},
    "transformers": {"kind": "transformers"},
}


def prm(kind: str = "transformers", **options):
    return build_signal("prm", {"model": PRM, "engine": ENGINES[kind], "separator": "\n", **options})


def prompts_of(tasks: dict[str, str]) -> pa.Table:
    rows = [{"prompt_id": name, "prompt": text, "source": "test"} for name, text in tasks.items()]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


@pytest.fixture(scope="module")
def traces() -> list[tuple[str, str]]:
    import random

    rng = random.Random(5)
    prompts = make_prompts(12, seed=6, split=Split.HELD_OUT)
    return [(prompt, write_trace(prompt, PUPIL, rng).text) for prompt in prompts]


@pytest.fixture
def stored(traces, make_rollouts) -> tuple[pa.Table, pa.Table]:
    """Rollouts of the demo's policy, whose token ids mean other characters to the PRM, and their prompts."""
    tokenizer = load_tokenizer(POLICY)
    rows = [{"text": text, "ids": tokenizer(text).input_ids, "group_id": f"p{i}"} for i, (_, text) in enumerate(traces)]
    return make_rollouts(*rows), prompts_of({f"p{i}": prompt for i, (prompt, _) in enumerate(traces)})


def scored(signal, rollouts: pa.Table, prompts: pa.Table, policy: str = POLICY) -> pa.Table:
    signal.check(None, {})
    signal.setup(policy)
    return signal.score(rollouts, {"prompts": prompts})


def test_scores_are_those_of_a_plain_forward_pass_on_both_engines(stored, traces) -> None:
    tokenizer = load_tokenizer(PRM)
    model = Qwen2ForProcessRewardModel.from_pretrained(PRM, dtype=torch.float32)
    expected = step_scores(model, tokenizer, [(prompt, split_steps(text)) for prompt, text in traces])
    for kind in ENGINES:
        table = scored(prm(kind), *stored)
        assert table["status"].to_pylist() == ["ok"] * len(traces)
        for found, ends, wanted, (_, text) in zip(
            table["process_scores"].to_pylist(), table["process_ends"].to_pylist(), expected, traces, strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
            breaks = [at + 1 for at, character in enumerate(text) if character == "\n"]
            assert ends == [*breaks, len(text)]


def test_step_ends_are_the_policys_tokens_where_its_tokenizer_is_another(tokenizer_folder, make_rollouts, ids) -> None:
    tokens = ["a", ".\n\nb", "b", "c"]  # the separator lies inside a token
    rollouts = make_rollouts({"text": "a.\n\nbbc", "ids": ids(*tokens)})
    table = scored(prm(separator="\n\n"), rollouts, prompts_of({"g": "12a+3?"}), policy=tokenizer_folder)
    assert table["process_ends"].to_pylist() == [[2, 4]]
    again = scored(prm(separator="\n\n"), make_rollouts({"text": "bc", "ids": ids("b", "c")}), prompts_of({"g": "1?"}))
    assert again["process_ends"].to_pylist() == [[2]]


def test_a_token_pair_is_a_language_models_next_token_logits(stored) -> None:
    """Math-Shepherd's form, on the demo's policy: after each line, "+" against "-"."""
    options = {"model": POLICY, "tag": "\n", "tokens": ["-", "+"]}
    tokenizer = load_tokenizer(POLICY)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    bad, good = (tokenizer.convert_tokens_to_ids(token) for token in "-+")
    rollouts, prompts = stored
    found = {kind: scored(prm(kind, **options), rollouts, prompts)["process_scores"].to_pylist() for kind in ENGINES}
    for row, (text, task) in enumerate(zip(rollouts["text"].to_pylist(), prompts["prompt"].to_pylist(), strict=True)):
        ids = tokenizer(task + text + "\n").input_ids
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0]
        at = [i for i, token in enumerate(ids) if token == tokenizer("\n").input_ids[0]]
        wanted = torch.sigmoid(logits[at, good] - logits[at, bad]).numpy()
        for kind in ENGINES:
            np.testing.assert_allclose(found[kind][row], wanted, atol=1e-4, err_msg=kind)


def test_a_token_classification_model_with_one_label(stored, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    tokenizer = load_tokenizer(PRM)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=len(tokenizer), num_labels=1)
    torch.manual_seed(0)
    model = Qwen2ForTokenClassification(config).eval()
    model.save_pretrained(tmp_path)
    rollouts, prompts = stored
    table = scored(prm(model=str(tmp_path), tag="\n"), rollouts, prompts)
    text = prompts["prompt"][0].as_py() + rollouts["text"][0].as_py() + "\n"
    ids = tokenizer(text).input_ids
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :, 0]
    at = [i for i, character in enumerate(text) if character == "\n"]
    np.testing.assert_allclose(table["process_scores"][0].as_py(), logits[at].sigmoid().numpy(), atol=1e-5)


def test_a_chat_template_and_a_system_text_go_around_the_steps(tiny_model: str, make_rollouts) -> None:
    options = {"model": tiny_model, "chat": True, "system": "be kind", "tag": ":", "tokens": ["-", "+"]}
    signal = prm(**options)
    tokenizer = load_tokenizer(tiny_model)
    ids, places = signal._read(tokenizer, "1+1=?", ["a:b", "c"])
    assert tokenizer.decode(ids) == "s: be kind\nu: 1+1=?\na: ab:c:\n"
    assert [tokenizer.decode(ids[: place + 1]) for place in places] == [
        "s: be kind\nu: 1+1=?\na: ab:",
        "s: be kind\nu: 1+1=?\na: ab:c:",
    ]


def test_a_tag_that_the_policy_wrote_is_not_read() -> None:
    tokenizer = load_tokenizer(PRM)
    signal = prm()
    assert signal._read(tokenizer, "1?", ["a<extra_0>=1", "A1"]) == signal._read(tokenizer, "1?", ["a=1", "A1"])


def test_what_cannot_be_scored_says_so(make_rollouts) -> None:
    tokenizer = load_tokenizer(POLICY)
    long = "=10\n" * 100
    rollouts = make_rollouts(
        {"text": long, "ids": tokenizer(long).input_ids}, {"text": ""}, {"text": "A1", "ids": tokenizer("A1").input_ids}
    )
    table = scored(prm(), rollouts, prompts_of({"g": "1?"}))
    assert table["status"].to_pylist() == ["too_long", "ok", "ok"]
    assert table["detail"][0].as_py().startswith("4")
    assert table["process_ends"].to_pylist() == [None, [], [2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tag": ""}, "tag is '': it must have at least 1"),
        ({"template": "{prompt}"}, "must have {steps} once"),
        ({"system": "s"}, "chat is false"),
        ({"tokens": ["+"]}, "tokens.1: is required"),
        ({"engine": {"pooling": {}}}, "engine.pooling is set"),
        ({"separator": ""}, "separator is '': it must have at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(SignalOptionError, match=message):
        prm(**options)


def test_a_tag_the_tokenizer_does_not_know_is_refused_before_anything_runs() -> None:
    with pytest.raises(SignalOptionError, match="does not know"):
        prm(tag=" ки").check(None, {})


def test_the_model_and_how_it_reads_are_in_the_fingerprint() -> None:
    signal = prm()
    assert set(signal.models()) == {"prm"}
    assert "engine" not in signal.options()
    assert {"prm_tokenizer", "pooling", "dtype"} <= set(signal.environment())


def test_where_no_row_was_answered_the_classes_are_unknown() -> None:
    signal = prm(positive=2)
    signal.setup(POLICY)
    scores, found = signal.step_scores(["1?", "2?"], [[], []])
    assert (scores.to_pylist(), found.ok_R.tolist()) == ([[], []], [True, True])
