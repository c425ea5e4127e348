"""Supervised training: the same loop on prompts and completions."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from pipelines.cli.parser import main
from pipelines.demo.arithmetic import TEACHER, Split, make_prompts, write_trace
from pipelines.demo.assets import asset_folder
from trainer import TrainOptions, sft
from trainer.batching import build_step
from trainer.data import build_index, select
from trainer.errors import TrainDataError, TrainOptionError
from trainer.metrics import read_metrics
from trainer.order import all_steps
from trainer.pairs import open_pairs
from trainer.policy import load_policy
from trainer.stream import stream_steps
from trainer.update import backward

OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=1, batch_size=8, loss="next_token", aggregation="token_mean", device="cpu", tensorboard=False,
)  # fmt: skip
POLICY = str(asset_folder("policy"))


@pytest.fixture(scope="module")
def traces() -> list[tuple[str, str]]:
    import random

    rng = random.Random(0)
    return [(p, write_trace(p, TEACHER, rng).text) for p in make_prompts(24, seed=0, split=Split.ASSETS)]


@pytest.fixture
def pairs(traces, tmp_path) -> str:
    """Two row groups of traces."""
    table = pa.table({"prompt": [p for p, _ in traces], "completion": [c for _, c in traces]})
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=13)
    return str(tmp_path / "pairs.parquet")


def test_the_gradient_is_that_of_cross_entropy_on_the_completions(pairs, traces):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = load_policy(POLICY, OPTIONS)
    data = open_pairs([pairs], POLICY)
    index = build_index(data, threads=1)
    whole = replace(OPTIONS, batch_size=24)
    steps = all_steps(select(index, whole, context=256).units, whole)
    (rollouts,) = stream_steps(data, index, steps, reference=False, threads=1, ahead=1)
    step = build_step(
        rollouts, masked=[False] * 24, aggregation="token_mean", constant=None, budget=600, pack=False,
        vocabulary_size=policy.vocabulary_size,
    )  # fmt: skip
    loss = sum(float(backward(policy, micro, options=whole)["loss"]) for micro in step.micro_batches)

    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for prompt, completion in traces:
        before, after = tokenizer(prompt).input_ids, [*tokenizer(completion).input_ids, tokenizer.eos_token_id]
        logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(after), reduction="sum")
        count += len(after)
    (total / count).backward()
    assert loss == pytest.approx(float(total / count), rel=1e-5)
    for (name, found), expected in zip(policy.model.named_parameters(), model.parameters(), strict=True):
        difference = (found.grad.double() - expected.grad).abs().max()
        assert difference < 1e-5 * max(float(p.grad.abs().max()) for p in model.parameters()), name


def test_the_command_learns_and_is_not_begun_again_with_another_file(pairs, tmp_path, capsys):
    out = str(tmp_path / "out")
    options = ["lr=1e-3", "warmup_steps=1", "batch_size=8", "epochs=4", "tensorboard=false", 'device="cpu"']
    command = ["sft", pairs, "--policy", POLICY, "--out", out, "--json"]
    for option in options:
        command += ["--set", option]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    losses = [line["loss"] for line in read_metrics(tmp_path / "out")]
    assert len(losses) == 12
    assert losses[-1] < 0.9 * losses[0]
    assert load_policy(result["policy"], OPTIONS).vocabulary_size == load_policy(POLICY, OPTIONS).vocabulary_size
    pq.write_table(pq.read_table(pairs).slice(1), pairs)
    assert main(command) == 2
    assert "another datasets" in capsys.readouterr().err


def test_rows_with_a_null_are_counted_and_left_out(pairs, tmp_path):
    table = pq.read_table(pairs)
    holes = table.set_column(1, "completion", pa.array([None, *table["completion"].to_pylist()[1:]]))
    pq.write_table(holes, tmp_path / "holes.parquet")
    result = sft([str(tmp_path / "holes.parquet")], policy=POLICY, out=str(tmp_path / "out"), options=OPTIONS)
    assert result.metrics["rows_untrainable"] == 1
    assert result.metrics["rows_left"] == 23


def test_a_file_without_the_columns_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "answer": ["b"]}), tmp_path / "bad.parquet")
    with pytest.raises(TrainDataError, match=r"bad\.parquet has no column completion"):
        sft([str(tmp_path / "bad.parquet")], policy=POLICY, out=str(tmp_path / "out"), options=OPTIONS)


def test_of_a_pair_longer_than_the_context_the_trainer_alone_speaks(tmp_path, caplog, monkeypatch):
    """The policy's tokenizer names 256 tokens, and transformers would warn of indexing errors that nobody makes."""
    table = pa.table({"prompt": ["57a+9?"], "completion": ["=66" * 200]})
    pq.write_table(table, file := str(tmp_path / "pairs.parquet"))
    data = open_pairs([file], POLICY)
    assert data.tokenizer  # transformers is loaded, and has its logger to itself
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING"):
        assert len(data.read(0, ["token_ids"])["token_ids"][0]) > 256
    assert not [one for one in caplog.records if one.name.startswith("transformers")]
    with pytest.raises(TrainDataError, match="1 rollouts are longer than the policy's context"):
        select(build_index(data, threads=1), OPTIONS, context=256)


@pytest.mark.parametrize(
    ("given", "named"),
    [([], "nothing to train on"), ("a/str", r"\['a/str'\]"), (5, "pairs is 5; give a list"), ([5], r"pairs is \[5\]")],
)
def test_what_is_no_list_of_files_is_refused(given, named):
    with pytest.raises(TrainDataError, match=named):
        open_pairs(given, POLICY)


@pytest.mark.parametrize("content", [None, b"no parquet"], ids=["missing", "not Parquet"])
def test_a_file_that_cannot_be_read_is_refused_by_the_command_and_claims_nothing(tmp_path, capsys, content):
    file = tmp_path / "pairs.parquet"
    if content is not None:
        file.write_bytes(content)
    assert main(["sft", str(file), "--policy", POLICY, "--out", str(tmp_path / "out")]) == 2
    assert "pairs.parquet cannot be read as a Parquet file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_messages_are_encoded_by_the_chat_template(tmp_path):
    pq.write_table(
        pa.table({"prompt": [[{"role": "user", "content": "1+2"}]], "completion": ["A3."]}), tmp_path / "chat.parquet"
    )
    data = open_pairs([str(tmp_path / "chat.parquet")], POLICY)
    data.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    row = data.read(0, ("prompt_token_ids", "token_ids")).to_pylist()[0]
    assert data.tokenizer.decode(row["prompt_token_ids"]).replace(" ", "") == "1+2="
    assert row["token_ids"] == [*data.tokenizer("A3.").input_ids, data.tokenizer.eos_token_id]


def test_what_next_token_does_not_know_is_refused():
    with pytest.raises(TrainOptionError, match="kl_coef"):
        TrainOptions(loss="next_token", kl_coef=0.1)


@pytest.fixture
def changed_tokenizer(tmp_path):
    """The demo's policy with a tokenizer of another post-processor or without an end token."""

    def make(*, appends_end: bool = False, end: bool = True) -> str:
        from transformers import AutoTokenizer

        folder = tmp_path / "policy"
        shutil.copytree(POLICY, folder)
        tokenizer = AutoTokenizer.from_pretrained(POLICY)
        if appends_end:
            token = (tokenizer.eos_token, tokenizer.eos_token_id)
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single=f"$A {token[0]}", special_tokens=[token]
            )
        if not end:
            tokenizer.eos_token = None
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def one_pair(folder, prompt, completion) -> str:
    pq.write_table(pa.table({"prompt": [prompt], "completion": [completion]}), folder / "one.parquet")
    return str(folder / "one.parquet")


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_completion_ends_with_one_end_token_however_it_is_written(written, tmp_path):
    plain = open_pairs([one_pair(tmp_path, "1+2", "=3")], POLICY)
    end = plain.tokenizer.eos_token
    data = open_pairs([one_pair(tmp_path, "1+2", "=3" + written * end)], POLICY)
    ids = data.read(0, ("token_ids",))["token_ids"][0].as_py()
    assert ids == [*data.tokenizer("=3", add_special_tokens=False).input_ids, data.tokenizer.eos_token_id]


def test_a_prompt_does_not_end_with_an_end_token_its_tokenizer_appends(changed_tokenizer, tmp_path):
    policy = changed_tokenizer(appends_end=True)
    data = open_pairs([one_pair(tmp_path, "1+2", "=3")], policy)
    assert data.tokenizer("1+2").input_ids[-1] == data.tokenizer.eos_token_id
    row = data.read(0, ("prompt_token_ids", "token_ids")).to_pylist()[0]
    assert row["prompt_token_ids"] == data.tokenizer("1+2", add_special_tokens=False).input_ids
    assert row["token_ids"].count(data.tokenizer.eos_token_id) == 1


def test_a_tokenizer_without_an_end_token_is_refused(changed_tokenizer, tmp_path):
    data = open_pairs([one_pair(tmp_path, "1+2", "=3")], changed_tokenizer(end=False))
    with pytest.raises(TrainDataError, match="has no end token"):
        data.read(0, ("token_ids",))


def test_messages_need_a_template_that_renders_them(tmp_path):
    data = open_pairs([one_pair(tmp_path, [{"role": "user", "content": "1+2"}], "=3")], POLICY)
    data.tokenizer.chat_template = None
    with pytest.raises(TrainDataError, match="has no chat template"):
        data.read(0, ("token_ids",))
    data.tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(TrainDataError, match=r"cannot render.*no users here"):
        data.read(0, ("token_ids",))


@pytest.mark.parametrize(
    ("role", "said"), [("human", "a message has the role 'human'"), ("system", "no message has the role user")]
)
def test_messages_of_unknown_roles_or_without_a_user_are_refused(tmp_path, role, said):
    data = open_pairs([one_pair(tmp_path, [{"role": role, "content": "1+2"}], "=3")], POLICY)
    with pytest.raises(TrainDataError, match=f"is no chat: {said}"):
        data.read(0, ("token_ids",))


@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_columns_that_are_no_text_are_refused(column, tmp_path):
    values = {"prompt": ["a"], "completion": ["b"], column: [7]}
    pq.write_table(pa.table(values), tmp_path / "numbers.parquet")
    with pytest.raises(TrainDataError, match=rf"numbers\.parquet: the column {column} is of type int64"):
        open_pairs([str(tmp_path / "numbers.parquet")], POLICY)


def test_a_folder_is_no_file_of_pairs(tmp_path):
    with pytest.raises(TrainDataError, match="cannot be read as a Parquet file"):
        open_pairs([str(tmp_path)], POLICY)
