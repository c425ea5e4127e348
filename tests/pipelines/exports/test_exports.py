"""Each format holds the rows of the dataset it was made from, as its readers read them."""

from __future__ import annotations

import json
from itertools import pairwise

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, safe_open

from pass_ops import shards
from pass_ops.errors import IncompleteDatasetError, UnknownColumnError
from pass_ops.shards import PROMPTS, DatasetSpec, commit_part, create_dataset, finalize
from pipelines.cli import main
from pipelines.cli.arguments.stores import EXPORTS
from pipelines.exports.form import ExportError
from pipelines.exports.write import FORMATS, export, export_format
from tests.trainer.rows import random_rows, split_groups, untrainable, write_shaped

#: of slime's Sample (slime/utils/types.py, August 2026)
SLIME_FIELDS = {
    *("group_index", "index", "rollout_id", "prompt", "tokens", "response", "response_length", "label", "reward"),
    *("loss_mask", "weight_versions", "rollout_log_probs", "status", "metadata", "train_metadata", "remove_sample"),
}
SHAPED = [name for name, form in FORMATS.items() if form.stage == "shape"]


@pytest.fixture
def rows():
    found = random_rows(groups=3, size=4, seed=1)
    found[5] = untrainable(found[5])
    return found


@pytest.fixture
def shaped(tmp_path, rows):
    return write_shaped(str(tmp_path / "shaped"), split_groups(rows, 2), sampling={"temperature": 0.75})


def token_advantages(row) -> list[float]:
    """One number a token, written out; 0 where the token does not count."""
    spread = [
        a for (start, end), a in zip(pairwise([0, *row.ends]), row.advantages, strict=True) for _ in range(start, end)
    ]
    return [np.float32(a).item() if counts else 0.0 for a, counts in zip(spread, row.mask, strict=True)]


def floats(values) -> list[float]:
    return [np.float32(value).item() for value in values]


def exported(shaped, tmp_path, name, **settings):
    out = tmp_path / "out"
    return export(export_format(name), shaped, str(out), settings=settings), out


def json_rows(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_the_hub_reads_every_column_and_an_advantage_a_token(shaped, tmp_path, rows, monkeypatch):
    made, out = exported(shaped, tmp_path, "huggingface")
    assert made.files == ("data/part-00000.parquet", "data/part-00001.parquet", "README.md")
    assert (made.rows, made.left_out) == (12, 0)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["rollout_id"] == [row.rollout_id for row in rows]
    assert [floats(values) for values in found["advantages"]] == [token_advantages(row) for row in rows]
    assert {"chunk_ends", "trainable", "policy_digest", "loss_mask"} <= set(found.column_names)


def test_the_card_says_how_the_data_was_made(shaped, tmp_path):
    _, out = exported(shaped, tmp_path, "huggingface")
    card = (out / "README.md").read_text()
    digest = shards.open_dataset(shaped).content_digest
    assert all(part in card for part in (digest, '"k": 0.7', '"temperature": 0.75', "p" * 64, "12 rollouts in 2 parts"))
    assert card.startswith("---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n")


def test_trl_finds_its_names(shaped, tmp_path, rows):
    made, out = exported(shaped, tmp_path, "trl")
    found = pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet"))).to_pylist()
    kept = [row for row in rows if row.trainable]
    assert (made.rows, made.left_out) == (11, 1)
    for row, got in zip(kept, found, strict=True):
        assert (got["prompt_ids"], got["completion_ids"]) == (list(row.prompt), list(row.tokens))
        assert got["completion_mask"] == list(row.mask)
        assert got["advantages"] == token_advantages(row)
        assert got["old_per_token_logps"] == floats(row.behavior)
        assert (got["rollout_id"], got["group_id"]) == (row.rollout_id, row.group)


def test_prime_rl_has_prompt_and_completion_on_one_axis(shaped, tmp_path, rows):
    made, out = exported(shaped, tmp_path, "prime-rl", env_name="maths")
    kept = [row for row in rows if row.trainable]
    assert (made.rows, made.left_out) == (11, 1)
    for row, got in zip(kept, json_rows(out), strict=True):
        before = len(row.prompt)
        assert got["token_ids"] == [*row.prompt, *row.tokens]
        assert got["mask"] == [False] * before + list(row.mask)
        assert floats(got["logprobs"]) == [0.0] * before + floats(row.behavior)
        assert floats(got["advantages"]) == [0.0] * before + token_advantages(row)
        assert got["temperatures"] == [0.75] * len(got["token_ids"])
        assert got["env_name"] == "maths"
        assert len({len(got[name]) for name in ("token_ids", "mask", "logprobs", "temperatures", "advantages")}) == 1


def test_rllm_has_a_list_of_advantages_as_long_as_the_response(shaped, tmp_path, rows):
    _, out = exported(shaped, tmp_path, "rllm")
    for row, got in zip([row for row in rows if row.trainable], json_rows(out), strict=True):
        assert (got["prompt_ids"], got["response_ids"]) == (list(row.prompt), list(row.tokens))
        assert floats(got["advantage"]) == token_advantages(row)
        assert floats(got["logprobs"]) == floats(row.behavior)
        assert (got["group_id"], got["rollout_id"]) == (row.group, row.rollout_id)


def test_safetensors_are_padded_as_trainers_pad(shaped, tmp_path, rows):
    made, out = exported(shaped, tmp_path, "safetensors")
    assert made.rows == 12
    left = iter(rows)
    for path in sorted(out.glob("*.safetensors")):
        found = load_file(path)
        with safe_open(path, framework="np") as file:
            ids = json.loads(file.metadata()["rollout_ids"])
        assert len(set(found["group_index"].tolist())) == len({name.split("/")[0] for name in ids})
        for at, name in enumerate(ids):
            row = next(left)
            prompt, length = len(row.prompt), len(row.tokens)
            assert name == row.rollout_id
            assert found["prompt_ids"][at].tolist()[-prompt:] == list(row.prompt)
            assert (
                found["prompt_mask"][at].tolist() == [False] * (found["prompt_ids"].shape[1] - prompt) + [True] * prompt
            )
            assert found["completion_ids"][at].tolist()[:length] == list(row.tokens)
            assert found["completion_mask"][at].tolist()[:length] == list(row.mask)
            assert found["advantages"][at].tolist()[:length] == token_advantages(row)
            assert found["behavior_logprobs"][at].tolist()[:length] == floats(row.behavior)
            assert not found["completion_mask"][at][length:].any()
            assert found["trainable"][at] == row.trainable


def torch_batches(out):
    return [torch.load(path, weights_only=True) for path in sorted(out.glob("*.pt"))]


def test_verl_builds_its_batch_of_what_torch_loads_as_plain_objects(shaped, tmp_path, rows):
    made, out = exported(shaped, tmp_path, "verl")
    kept = iter([row for row in rows if row.trainable])
    assert (made.rows, made.left_out) == (11, 1)
    for content in torch_batches(out):
        batch, others = content["batch"], content["non_tensor_batch"]
        assert content["meta_info"] == {"temperature": 0.75}
        assert {len(values) for values in (*batch.values(), *others.values())} == {len(batch["responses"])}
        width = batch["prompts"].shape[1]
        for at, row in zip(range(len(batch["responses"])), kept, strict=False):
            pad, length = width - len(row.prompt), len(row.tokens)
            assert batch["prompts"][at].tolist() == [0] * pad + list(row.prompt)
            assert batch["responses"][at, :length].tolist() == list(row.tokens)
            whole = [0] * pad + [1] * (len(row.prompt) + length)
            assert batch["attention_mask"][at, : width + length].tolist() == whole
            assert not batch["attention_mask"][at, width + length :].any()
            assert batch["position_ids"][at, pad : width + length].tolist() == list(range(len(row.prompt) + length))
            assert batch["response_mask"][at, :length].tolist() == [int(counts) for counts in row.mask]
            assert batch["rollout_log_probs"][at, :length].tolist() == floats(row.behavior)
            assert batch["ref_log_prob"][at, :length].tolist() == floats(row.reference)
            assert batch["advantages"][at, :length].tolist() == token_advantages(row)
            assert (others["uid"][at], others["rollout_id"][at]) == (row.group, row.rollout_id)
        assert torch.equal(batch["input_ids"], torch.cat([batch["prompts"], batch["responses"]], dim=1))
        assert {values.dtype for values in batch.values()} == {torch.int64, torch.float32}
    assert next(kept, None) is None


def test_slime_finds_the_fields_of_its_samples(shaped, tmp_path, rows):
    made, out = exported(shaped, tmp_path, "slime")
    assert (made.files, made.left_out) == (("0.pt", "1.pt"), 1)
    samples = [sample for dump in torch_batches(out) for sample in dump["samples"]]
    for row, sample in zip([row for row in rows if row.trainable], samples, strict=True):
        assert set(sample) <= SLIME_FIELDS
        assert (sample["tokens"], sample["response_length"]) == ([*row.prompt, *row.tokens], len(row.tokens))
        assert (sample["loss_mask"], sample["rollout_log_probs"]) == ([*map(int, row.mask)], floats(row.behavior))
        assert sample["train_metadata"] == {"advantages": token_advantages(row)}
        assert (sample["status"], sample["metadata"]["rollout_id"]) == ("completed", row.rollout_id)
    assert [sample["group_index"] for sample in samples] == [0] * 4 + [1] * 3 + [0] * 4


def test_tinker_predicts_each_next_token_with_the_advantage_of_that(shaped, tmp_path, rows):
    _, out = exported(shaped, tmp_path, "tinker")
    for row, got in zip([row for row in rows if row.trainable], json_rows(out), strict=True):
        whole, before = [*row.prompt, *row.tokens], [0.0] * (len(row.prompt) - 1)
        (chunk,) = got["model_input"]["chunks"]
        assert (chunk["type"], chunk["tokens"]) == ("encoded_text", whole[:-1])
        inputs = got["loss_fn_inputs"]
        assert inputs["target_tokens"] == {"data": whole[1:], "dtype": "int64", "shape": [len(whole) - 1]}
        assert floats(inputs["logprobs"]["data"]) == before + floats(row.behavior)
        assert floats(inputs["advantages"]["data"]) == before + token_advantages(row)
        assert inputs["advantages"]["shape"] == inputs["logprobs"]["shape"] == inputs["target_tokens"]["shape"]
        assert (got["group_id"], got["rollout_id"]) == (row.group, row.rollout_id)


@pytest.mark.parametrize("name", ["verl", "prime-rl", "rllm", "tinker", "safetensors"])
def test_formats_without_a_place_for_it_refuse_an_import_without_logprobs(tmp_path, rows, name):
    block = {"imported": {"format": "trl", "unknown": ["behavior_logprobs"]}}
    shaped = write_shaped(str(tmp_path / "shaped"), [rows], carried=block)
    with pytest.raises(UnknownColumnError, match=f"the format {name} needs it. `passrl rescore"):
        exported(shaped, tmp_path, name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["verl", "prime-rl"])
def test_a_temperature_that_nobody_knows_is_not_filled_in(tmp_path, rows, name):
    shaped = write_shaped(str(tmp_path / "shaped"), [rows], sampling={"temperature": None})
    with pytest.raises(ExportError, match="does not say at what temperature"):
        exported(shaped, tmp_path, name)


@pytest.fixture
def prompts(tmp_path):
    table = pa.table(
        {
            "prompt_id": ["a", "b"],
            "prompt": ["1 + 1 = ", None],
            "messages": [None, [{"role": "user", "content": "Wieviel ist 2 · 3?"}]],
            "answer": ["2", "6"],
            "source": ["x", "x"],
            "extra": [None, None],
        },
        schema=PROMPTS,
    )
    dataset = create_dataset(
        str(tmp_path / "prompts"), DatasetSpec(stage="prompts", stage_version=1, options={}, parts=1)
    )
    commit_part(dataset, 0, table)
    finalize(dataset)
    return str(tmp_path / "prompts")


def test_prompts_become_requests(prompts, tmp_path):
    made, out = exported(prompts, tmp_path, "openai-batch", model="org/name", n=8, temperature=0.7)
    body = {"model": "org/name", "n": 8, "temperature": 0.7}
    assert made.rows == 2
    assert json_rows(out) == [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body | {"prompt": "1 + 1 = "}},
        {
            "custom_id": "b", "method": "POST", "url": "/v1/chat/completions",
            "body": body | {"messages": [{"role": "user", "content": "Wieviel ist 2 · 3?"}]},
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("openai-batch", {}, "the format 'openai-batch' needs the setting 'model', the model's name; give model="),
        ("openai-batch", {"modle": "x"}, "the format 'openai-batch' has no setting 'modle'; .* did you mean 'model'"),
        ("rllm", {"x": 1}, "the format 'rllm' has no setting 'x'; it has none"),
        ("trl", {}, ".* is a dataset of stage 'prompts', and the format 'trl' is made from stage 'shape'"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(prompts, tmp_path, name, settings, message):
    with pytest.raises(ExportError, match=message):
        exported(prompts, tmp_path, name, **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(shaped, tmp_path):
    exported(shaped, tmp_path, "rllm")
    with pytest.raises(ExportError, match="out holds files already, which would mix with the export's"):
        exported(shaped, tmp_path, "trl")


def test_an_unfinished_dataset_is_refused(tmp_path):
    create_dataset(str(tmp_path / "shaped"), DatasetSpec(stage="shape", stage_version=1, options={}, parts=1))
    with pytest.raises(IncompleteDatasetError):
        exported(str(tmp_path / "shaped"), tmp_path, "rllm")


@pytest.mark.parametrize("name", SHAPED)
def test_the_command_writes_what_the_function_writes(shaped, tmp_path, name, capsys):
    made, out = exported(shaped, tmp_path, name)
    again = tmp_path / "again"
    assert main(["export", name, shaped, "--out", str(again), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"folder": str(again), "files": list(made.files), "rows": made.rows, "left_out": made.left_out}
    assert all((again / file).read_bytes() == (out / file).read_bytes() for file in made.files)


def test_the_command_line_knows_every_format(shaped, tmp_path, capsys):
    assert tuple(FORMATS) == EXPORTS
    assert main(["export", "rllm", shaped, "--out", str(tmp_path / "out"), "--set", "x"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err
