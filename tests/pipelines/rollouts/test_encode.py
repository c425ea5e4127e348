"""What a policy is given: prefills, special tokens of a prompt's own, tokenizers that end a text, texts without end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pass_ops import shards
from pipelines.engines.base import EngineOptions, RequestRejected, Sampling
from pipelines.engines.text import unspelled
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts import encode
from pipelines.rollouts.encode import encode_prompt, plan_part, special_encoding, unspelled_prompts
from pipelines.rollouts.stage import GenerateOptionError, GenerateOptions, generate, generate_spec
from tests.conftest import byte_tokenizer, make_reciting_model, refusing_tokenizer

USER = {"role": "user", "content": "hi"}
PREFILL = {"role": "assistant", "content": "Let me"}


def encoded(tokenizer: Any, prompt: str | None = None, messages: Any = None, **options: Any) -> str:
    ids = encode_prompt(tokenizer, prompt, messages, options=GenerateOptions(**options))
    return str(tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize(
    ("messages", "given", "expected"),
    [
        ([USER, PREFILL], {}, "<s>user\nhi<|im_end|>\nassistant\nLet me"),
        ([PREFILL], {}, "<s>assistant\nLet me"),
        ([USER, PREFILL], {"continue_final_message": True}, "<s>user\nhi<|im_end|>\nassistant\nLet me"),
        ([USER, PREFILL], {"add_generation_prompt": False}, "<s>user\nhi<|im_end|>\nassistant\nLet me"),
        (
            [USER, PREFILL],
            {"continue_final_message": False},
            "<s>user\nhi<|im_end|>\nassistant\nLet me<|im_end|>\nassistant\n",
        ),
        (
            [USER, PREFILL],
            {"add_generation_prompt": True},
            "<s>user\nhi<|im_end|>\nassistant\nLet me<|im_end|>\nassistant\n",
        ),
        (
            [USER, PREFILL],
            {"add_generation_prompt": False, "continue_final_message": False},
            "<s>user\nhi<|im_end|>\nassistant\nLet me<|im_end|>\n",
        ),
        ([USER], {}, "<s>user\nhi<|im_end|>\nassistant\n"),
        ([USER], {"add_generation_prompt": False}, "<s>user\nhi<|im_end|>\n"),
        ([USER], {"continue_final_message": True}, "<s>user\nhi"),
    ],
)
def test_a_final_message_of_the_assistant_is_continued(messages, given, expected) -> None:
    assert encoded(byte_tokenizer(), messages=messages, chat_template_kwargs=given) == expected


def spelling(model: Any, normalizer: Any = None, **names: str) -> Any:
    """A tokenizer of single characters; names: of its special tokens."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


LETTERS = {letter: i for i, letter in enumerate(["<unk>", *"abe12"])}
LOWER = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])


@pytest.mark.parametrize(
    ("tokenizer", "text", "lost"),
    [
        (spelling(models.BPE(LETTERS, [])), "ab é12\U0001f600 e", "é\U0001f600"),  # dropped without a word
        (spelling(models.BPE(LETTERS, [], unk_token="<unk>")), "ab é12", "é"),
        (spelling(models.WordLevel(LETTERS, unk_token="<unk>")), "AB\n1", "AB"),
        (spelling(models.WordLevel(LETTERS, unk_token="<unk>"), LOWER), "AB\té E\u0301Z", "z"),  # as it is meant
        (spelling(models.Unigram([*((name, -1.0) for name in LETTERS)], unk_id=0), unk_token="<unk>"), "abé", "é"),
        (spelling(models.Unigram([*((name, -1.0) for name in LETTERS)], unk_id=0)), "abé", "é"),  # named nowhere else
        (spelling(models.BPE(LETTERS, [], unk_token="<unk>"), unk_token="<unk>"), "<unk> ab", ""),  # written so
        (byte_tokenizer(), "naïve \U0001f600\u0301 <|im_end|>\x00", ""),
    ],
)
def test_characters_that_no_token_spells_are_found(tokenizer, text, lost) -> None:
    assert unspelled(tokenizer, text) == lost


def test_prompts_that_a_tokenizer_cannot_spell_are_found_and_planned_as_the_policy_sees_them() -> None:
    tokenizer = spelling(models.BPE(LETTERS, []), eos_token="b")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    rows = [
        {"prompt_id": "good", "prompt": "ab 12", "messages": None},
        {"prompt_id": "bad", "prompt": "a÷b", "messages": None},
        {"prompt_id": "chat", "prompt": None, "messages": [{"role": "user", "content": "1÷2"}]},
    ]
    table = pa.Table.from_pylist(
        [{"answer": None, "extra": None, "source": "s", **row} for row in rows], shards.PROMPTS
    )
    options = GenerateOptions(system="e€")
    planned = plan_part(table, tokenizer=tokenizer, options=options, max_model_len=100)
    assert [one.token_ids for one in planned] == [[1, 2, 4, 5], [1, 2], [3, 4, 5]]
    found = unspelled_prompts(planned, tokenizer=tokenizer, options=options)
    assert found == {"bad": "÷", "chat": "€÷"}


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_that_a_vocabulary_without_an_unknown_token_cannot_spell_is_rejected_alone(chat) -> None:
    tokenizer = refusing_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    rows = [{"prompt_id": name, "prompt": name, "messages": None} for name in ("ab", "a÷b", "ba")]
    table = pa.Table.from_pylist(
        [{"answer": None, "extra": None, "source": "s", **row} for row in rows], shards.PROMPTS
    )
    options = GenerateOptions(chat=chat)
    first, second, third = plan_part(table, tokenizer=tokenizer, options=options, max_model_len=100)
    assert [first.token_ids, third.token_ids] == [[0, 1], [1, 0]]
    assert (second.prompt_id, second.reason) == ("a÷b", "unspelled_text")
    assert "Missing [UNK] token" in second.detail
    assert special_encoding(tokenizer, rows, options=options) == {}
    assert unspelled(tokenizer, "a÷b") == ""  # it refuses them aloud


def test_a_template_that_drops_the_final_message_rejects_the_prompt() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(RequestRejected, match=r"chat_template_error: .*does not appear in the chat"):
        encoded(tokenizer, messages=[USER, PREFILL])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "sets both continue_final_message"),
        ({"continue_final_message": "content"}, "is 'content'; it must be true or false"),
        ({"add_generation_prompt": 1}, "is 1; it must be true or false"),
        ({"tokenize": False}, "sets 'tokenize', which this stage sets itself"),
        ({"return_dict": True}, "sets 'return_dict'"),
    ],
)
def test_template_arguments_that_cannot_be_honoured_are_refused_when_the_options_are_read(given, said) -> None:
    with pytest.raises(GenerateOptionError, match=said):
        GenerateOptions(chat_template_kwargs=given)


@pytest.mark.parametrize("prompt", ["<s>user\nhi", "<s>", "<s><s>two on purpose"])
def test_a_prompt_that_begins_with_the_first_token_gets_no_second(prompt: str) -> None:
    assert encoded(byte_tokenizer(), prompt) == prompt


def test_any_other_prompt_gets_it() -> None:
    assert encoded(byte_tokenizer(), "hi <s>") == "<s>hi <s>"
    assert encoded(byte_tokenizer(), " <s>hi") == "<s> <s>hi"


def test_tokens_that_the_tokenizer_puts_after_a_text_are_left_out() -> None:
    tokenizer = byte_tokenizer(appended="<|im_end|>")
    assert tokenizer.decode(tokenizer("a+1").input_ids) == "<s>a+1<|im_end|>", "the case"
    assert encoded(tokenizer, "a+1") == "<s>a+1"
    assert encoded(tokenizer, "a+1<|im_end|>") == "<s>a+1<|im_end|>", "one that the prompt itself has stays"


def test_a_text_too_long_for_any_tokens_is_rejected_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_nothing(*_: object, **__: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(encode, "encode_prompt", encode_nothing)
    long = {"role": "user", "content": "a" * 30_000_000}
    rows = [
        {"prompt_id": "plain", "prompt": "a" * 50_000_000, "source": "s"},
        {"prompt_id": "chat", "messages": [long, long], "source": "s"},
    ]
    table = pa.Table.from_pylist(rows, schema=shards.PROMPTS)
    planned = plan_part(table, tokenizer=byte_tokenizer(), options=GenerateOptions(), max_model_len=4096)
    assert [(item.reason, item.detail) for item in planned] == [
        ("prompt_too_long", "50000000 characters; at most 4095 tokens of at most 10 characters each fit"),
        ("prompt_too_long", "60000000 characters; at most 4095 tokens of at most 10 characters each fit"),
    ]


def test_a_planned_prompt_carries_its_row_for_programs_and_verifiers() -> None:
    rows = [
        {"prompt_id": "a", "prompt": "hi", "source": "s", "answer": "5", "extra": '{"context": ["x"]}'},
        {"prompt_id": "b", "messages": [USER], "source": "s"},
    ]
    table = pa.Table.from_pylist(rows, schema=shards.PROMPTS)
    first, second = plan_part(table, tokenizer=byte_tokenizer(), options=GenerateOptions(), max_model_len=64)
    assert (first.task.prompt_id, first.task.text, first.task.extra, first.answer) == (
        "a",
        "hi",
        {"context": ["x"]},
        "5",
    )
    assert (second.task.text, second.task.messages, second.task.extra, second.answer) == (None, [USER], {}, None)


# --- in the stage --------------------------------------------------------------------------------------------------

RECORDED = EngineOptions(kind="recorded", recording="synthetic:1")


def made(folder: Path, model: str, *rows: dict[str, Any], **options: Any) -> shards.CompleteDataset:
    """The rollouts of these prompts."""
    folder.mkdir()
    source = folder / "p.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts, out = str(folder / "prompts"), str(folder / "rollouts")
    write_prompts(PromptSource(source=str(source)), out=prompts)
    options = {"group_size": 1, "sampling": Sampling(max_tokens=4), **options}
    generate(prompts=prompts, out=out, model=model, engine=RECORDED, options=GenerateOptions(**options))
    return shards.open_dataset(out)


def test_the_fingerprint_knows_special_encodings_and_only_those(
    tmp_path: Path, reciting_model: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    model = reciting_model("abc")
    ordinary = made(tmp_path / "1", model, {"prompt": "hi"})
    assert set(ordinary.spec.options) == {"chat", "system", "chat_template_kwargs", "max_prompt_tokens"}
    assert "stop_tokens" not in ordinary.spec.carried["sampling"]
    assert "keep_special_tokens" not in ordinary.spec.carried["sampling"]
    assert made(tmp_path / "2", model, {"prompt": "<s>hi"}).spec.options["own_special_tokens"] is True
    prefilled = made(tmp_path / "3", model, {"messages": [USER, PREFILL]})
    assert prefilled.spec.options["continued_message"] is True
    ends = make_reciting_model(tmp_path / "ends", "abc", end="<|im_end|>", appended="<|im_end|>")
    with caplog.at_level(logging.WARNING):
        cut = made(tmp_path / "4", ends, {"prompt": "hi"})
    assert cut.spec.options["dropped_tokens"] == ["<|im_end|>"]
    assert "puts <|im_end|> after every text; prompts are given without it" in caplog.text
    assert cut.read_part(0)["prompt_token_ids"].to_pylist() == ordinary.read_part(0)["prompt_token_ids"].to_pylist()
    sampling = Sampling(max_tokens=4, stop=("<|im_end|>", "b"), keep_special_tokens=("<think>",))
    stopped = made(tmp_path / "5", model, {"prompt": "hi"}, sampling=sampling)
    assert stopped.spec.carried["sampling"]["stop_tokens"] == {"<|im_end|>": 2}
    assert stopped.spec.carried["sampling"]["keep_special_tokens"] == ["<think>"]


def test_a_stop_that_could_never_be_found_is_refused_before_anything_runs(
    tmp_path: Path, reciting_model: Callable[..., str]
) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text('{"prompt": "hi"}\n')
    write_prompts(PromptSource(source=str(source)), out=str(tmp_path / "prompts"))
    options = GenerateOptions(sampling=Sampling(stop=("\n<|im_end|>",)))
    with pytest.raises(GenerateOptionError, match=r"generate.sampling: stop holds .* never be found"):
        generate_spec(
            shards.open_dataset(str(tmp_path / "prompts")), out=str(tmp_path / "out"), model=reciting_model("abc"),
            engine=RECORDED, options=options, seed=0, round=0,
        )  # fmt: skip
