"""A handful of the architectures of benchmarks/architectures.py: what each of them would get wrong in its own way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from benchmarks.architectures import OPTIONS, WORK, build, measure, off_plain
from pipelines.gpu_check.workload import write_workload
from trainer.errors import ModelLoadError, PolicyMismatchError, TrainOptionError
from trainer.policy import load_policy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """A shaped dataset of two steps."""
    url = str(tmp_path_factory.mktemp("shaped") / "shaped")
    write_workload(url, WORK)
    return url


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("gemma2", "eager"),  # sdpa leaves its softcapping out
        ("opt", "sdpa"),  # calls dropout as a function
        ("mixtral", "sdpa"),  # noise in its routing, experts merged while loading
        ("deepseek_v3", "sdpa"),  # a float32 buffer among bfloat16 weights
        ("gpt_oss", "eager"),  # sinks
        ("llama4_text", "sdpa"),  # the model is its own base_model
    ],
)
def test_trained_as_the_model_computes_and_exported_whole(kind, attention, data, tmp_path):
    line = measure(kind, tmp_path, data, with_vllm=False)
    assert line.attention == attention
    assert float(line.plain) < 1e-5
    assert line.twice == "equal"
    assert line.export == "complete"
    assert float(line.reload) < 1e-5


def test_an_attention_that_leaves_a_part_out_is_refused_by_name_where_asked_for(tmp_path):
    folder = str(build("gemma2", tmp_path))
    with pytest.raises(ModelLoadError, match=rf"{folder}.*attn_logit_softcapping.*attention = 'eager'"):
        load_policy(folder, replace(OPTIONS, attention="sdpa"))
    assert off_plain(load_policy(folder, replace(OPTIONS, attention="eager"))) < 1e-5


def test_a_difference_no_config_names_is_found_by_comparison(tmp_path, monkeypatch):
    from transformers import AttentionInterface

    folder = str(build("llama", tmp_path))
    whole = AttentionInterface._global_mapping["sdpa"]

    def unscaled(module, query, *arguments, scaling=None, **more):
        return whole(module, query, *arguments, scaling=0.9 * scaling, **more)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", unscaled)
    assert load_policy(folder, OPTIONS).model.config._attn_implementation == "eager"
    with pytest.raises(ModelLoadError, match="nats from those of eager attention"):
        load_policy(folder, replace(OPTIONS, attention="sdpa"))


@pytest.mark.parametrize("attention", ["sdpa", "nonsense"])
def test_an_attention_that_is_not_to_be_had_is_refused_with_the_one_that_is(attention, tmp_path):
    folder = str(build("bloom", tmp_path))
    with pytest.raises(ModelLoadError, match=rf"{folder} cannot be run with attention '{attention}'.*'eager'"):
        load_policy(folder, replace(OPTIONS, attention=attention))


@pytest.mark.parametrize("kind", ["mixtral", "glm4_moe"])
def test_packing_may_round_otherwise(kind, tmp_path):
    load_policy(str(build(kind, tmp_path)), replace(OPTIONS, layout="pack"))


def test_a_state_that_runs_on_into_the_next_packed_rollout_is_refused(tmp_path):
    folder = str(build("mamba", tmp_path))
    with pytest.raises(PolicyMismatchError, match=rf"{folder}.*cross packed rollouts.*layout to 'pad'"):
        load_policy(folder, replace(OPTIONS, layout="pack"))
    with pytest.raises(PolicyMismatchError, match=rf"{folder}.*shared prompt.*share_prompts to false"):
        load_policy(folder, replace(OPTIONS, share_prompts=True))


def test_recomputed_layers_give_the_same_gradient_and_no_noise(tmp_path):
    folder = str(build("opt", tmp_path, dtype=torch.float32))
    gradients = []
    for recomputed in (False, True):
        policy = load_policy(folder, replace(OPTIONS, gradient_checkpointing=recomputed))
        ids = torch.arange(3, 11).unsqueeze(0)
        logprobs_N, _, _ = policy.scorer(ids, None, torch.arange(7), ids[0, 1:], 1.0)
        logprobs_N.sum().backward()
        gradients.append({name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
    with pytest.raises(TrainOptionError, match="share_prompts needs"):
        load_policy(folder, replace(OPTIONS, gradient_checkpointing=True, share_prompts=True))


def test_experts_take_adapters(tmp_path):
    pytest.importorskip("peft")
    policy = load_policy(str(build("mixtral", tmp_path)), replace(OPTIONS, lora_rank=2))
    assert any("experts" in name for name, p in policy.adapter.named_parameters() if p.requires_grad)
    assert off_plain(policy) < 1e-5
