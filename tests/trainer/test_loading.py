"""A model folder is loaded whole, as what its config says, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.trainer.rows import random_rows
from trainer.compatibility import open_shaped
from trainer.data import ShapedData
from trainer.errors import ModelLoadError
from trainer.export import export_policy
from trainer.loading import context_length, load_model
from trainer.options import TrainOptions
from trainer.policy import load_policy
from trainer.steps import plan_steps, step_batches

OPTIONS = TrainOptions(device="cpu")


@pytest.fixture
def folder(policy_folder, tmp_path) -> Path:
    """A copy of the random Llama, to be damaged."""
    return Path(shutil.copytree(policy_folder, tmp_path / "policy"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change) -> None:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without(name: str):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if name not in key}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: change_weights(f, without("layers.1.mlp.up_proj")), r"lacks tensors.*layers\.1\.mlp\.up_proj"),
        (lambda f: change_weights(f, lambda t: t | {"model.extra": torch.ones(2)}), r"no place for.*model\.extra"),
        (lambda f: change_config(f, num_hidden_layers=1), r"no place for.*model\.layers\.1\..* more"),
        (lambda f: change_config(f, num_hidden_layers=3), r"lacks tensors.*model\.layers\.2\..* more"),
        (lambda f: change_config(f, vocab_size=40), r"other shapes.*embed_tokens"),
        (lambda f: change_config(f, quantization_config={"quant_method": "fp8"}), r"quantized \(fp8\)"),
        (lambda f: change_config(f, model_type="llava"), "no causal language model of text"),
        (lambda f: (f / "config.json").write_text("{"), "not readable"),
        (lambda f: (f / "config.json").write_text("[]"), "not readable"),
        (lambda f: (f / "model.safetensors").write_bytes(b"xx"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_by_name(damage, named, folder):
    damage(folder)
    with pytest.raises(ModelLoadError, match=named) as refused:
        load_policy(str(folder), OPTIONS)
    assert str(folder) in str(refused.value)


def test_code_in_a_folder_is_never_run_nor_asked_about(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked stdin"))
    (folder / "configuration_mine.py").write_text("raise SystemExit('ran')")
    auto_map = {"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "configuration_mine.Mine"}
    change_config(folder, auto_map=auto_map)
    load_policy(str(folder), OPTIONS)  # transformers has its class
    change_config(folder, model_type="mine")
    with pytest.raises(ModelLoadError, match=r"'mine'.*auto_map.*never run"):
        load_policy(str(folder), OPTIONS)


def test_the_engine_refuses_the_same(folder):
    change_weights(folder, without("lm_head"))
    with pytest.raises(ModelLoadError, match="lm_head"):
        load_model(AutoModelForCausalLM, folder, dtype=torch.float32)


def test_every_file_but_weights_is_exported(folder, tmp_path):
    names = ("spiece.model", "qwen.tiktoken", "tekken.json", "preprocessor_config.json", "configuration_mine.py")
    for name in names:
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    for name in ("README.md", "pytorch_model.bin", "model.gguf", ".cache"):
        (folder / name).write_text("not ours")
    strange = '{"do_sample": false, "temperature": 0.3}'  # transformers warns of it, and refuses to save it
    (folder / "generation_config.json").write_text(strange)
    export = tmp_path / "export"
    export.mkdir()
    export_policy(load_policy(str(folder), OPTIONS), export, dtype="auto")
    assert all((export / name).read_text() == name for name in names)
    assert (export / "additional_chat_templates" / "tool_use.jinja").read_text() == "tools"
    assert (export / "generation_config.json").read_text() == strange
    assert not {"README.md", "pytorch_model.bin", "model.gguf", ".cache"} & {file.name for file in export.iterdir()}


def test_tensors_the_model_has_no_use_for_are_exported_as_they_are(folder, tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"^mtp\."])
    extra = torch.tensor([1.0, 2.5], dtype=torch.float64)
    change_weights(folder, lambda tensors: tensors | {"mtp.layer.weight": extra})
    export = tmp_path / "export"
    export.mkdir()
    export_policy(load_policy(str(folder), OPTIONS), export, dtype="bfloat16")
    found = load_file(export / "model.safetensors")
    assert found.keys() == load_file(folder / "model.safetensors").keys()
    assert found["mtp.layer.weight"].dtype == torch.float64
    assert torch.equal(found["mtp.layer.weight"], extra)
    assert found["lm_head.weight"].dtype == torch.bfloat16


def test_a_second_copy_of_a_tied_weight_stays_its_copy(tied_policy_folder, tmp_path):
    folder = Path(shutil.copytree(tied_policy_folder, tmp_path / "policy"))
    change_weights(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    policy = load_policy(str(folder), OPTIONS)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight += 1
    export = tmp_path / "export"
    export.mkdir()
    export_policy(policy, export, dtype="auto")
    found = load_file(export / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert torch.equal(found["lm_head.weight"], policy.model.get_output_embeddings().weight)


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, 32),
        ({"rope_type": "linear", "factor": 4.0}, 128),
        ({"rope_type": "dynamic", "factor": 4.0}, 128),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}, 32),
    ],
)
def test_the_context_is_vllms(rope, limit, folder):
    change_config(folder, rope_parameters={"rope_theta": 1e4, **rope}, max_position_embeddings=32)
    assert load_policy(str(folder), OPTIONS).context == limit


def test_the_context_of_a_multimodal_model_is_its_text_parts():
    text = SimpleNamespace(max_position_embeddings=48, model_type="mine")
    assert context_length(SimpleNamespace(get_text_config=lambda decoder: text)) == 48


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "longrope", "original_max_position_embeddings": 8, "short_factor": [1.0] * 8,
         "long_factor": [3.0] * 8, "factor": 4.0},
    ],
    ids=["dynamic", "longrope"],
)  # fmt: skip
def test_a_rope_that_follows_the_longest_row_sees_each_rollout_alone(rope, folder, make_shaped):
    rows = random_rows(groups=3, size=3, longest=20)
    change_config(folder, rope_parameters={"rope_theta": 1e4, **rope}, max_position_embeddings=8)
    if rope["rope_type"] == "longrope":
        change_config(folder, max_position_embeddings=32)
    policy = load_policy(str(folder), replace(OPTIONS, batch_size=3))
    sources = open_shaped([make_shaped([rows])])
    plan = plan_steps(ShapedData(sources), policy, replace(OPTIONS, batch_size=3), temperature=1.0)
    assert plan.budget == 1
    (step,) = step_batches(plan, policy, replace(OPTIONS, batch_size=3))
    ours = {}
    with torch.no_grad():
        for batch in sorted(step.micro_batches, key=lambda batch: -batch.real_tokens):  # the longest first
            ours[batch.rollout_ids[0]] = policy.token_outputs(batch).logprobs_N
        for row in rows:
            fresh = load_model(AutoModelForCausalLM, folder, dtype=torch.float32)
            logits_TV = fresh(torch.tensor([[*row.prompt, *row.tokens]]), use_cache=False).logits[0]
            logprobs_TV = logits_TV[len(row.prompt) - 1 : -1].log_softmax(-1)
            plain = logprobs_TV.gather(-1, torch.tensor(row.tokens)[:, None]).squeeze(-1)[torch.tensor(row.mask)]
            assert torch.allclose(ours[row.rollout_id], plain, atol=1e-5), row.rollout_id
