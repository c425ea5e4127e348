from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.rows import random_rows, step_of
from trainer.errors import PolicyMismatchError, PolicyNotFoundError, TrainOptionError
from trainer.options import TrainOptions
from trainer.policy import export_policy, load_policy

OPTIONS = TrainOptions(device="cpu")
ROWS = random_rows(groups=2, size=3)


@pytest.fixture(scope="module")
def policy(policy_folder):
    return load_policy(policy_folder, OPTIONS)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropy_are_those_of_the_models_own_logits(policy, temperature, pack):
    (batch,) = step_of(ROWS, pack=pack, temperature=temperature).micro_batches
    with torch.no_grad():
        outputs = policy.token_outputs(batch)
        found = iter(zip(outputs.logprobs_N, outputs.logprobs_t1_N, outputs.entropy_N, strict=True))
        for rollout_id in batch.rollout_ids:
            row = next(row for row in ROWS if row.rollout_id == rollout_id)
            logits = policy.model(torch.tensor([[*row.prompt, *row.tokens]]), use_cache=False).logits[0]
            for t in (t for t in range(len(row.tokens)) if row.mask[t]):
                before = logits[len(row.prompt) + t - 1]
                cooled = torch.distributions.Categorical(logits=before / temperature)
                plain = torch.distributions.Categorical(logits=before)
                token = torch.tensor(row.tokens[t])
                at_temperature, at_one, entropy = next(found)
                assert float(at_temperature) == pytest.approx(float(cooled.log_prob(token)), abs=1e-5)
                assert float(at_one) == pytest.approx(float(plain.log_prob(token)), abs=1e-5)
                assert float(entropy) == pytest.approx(float(cooled.entropy()), abs=1e-5)
    assert next(found, None) is None


def test_the_export_is_the_model_with_the_policys_own_config_and_tokenizer(policy, policy_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    export_policy(policy, tmp_path, dtype="auto")
    source = Path(policy_folder)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_the_export_can_be_rounded_and_the_master_weights_are_not(policy, tmp_path):
    from safetensors.torch import load_file

    before = policy.model.get_output_embeddings().weight.detach().clone()
    export_policy(policy, tmp_path, dtype="bfloat16")
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert policy.model.dtype == torch.float32
    assert torch.equal(policy.model.get_output_embeddings().weight, before)


def test_tied_weights_are_exported_once(tied_policy_folder, tmp_path):
    from safetensors.torch import load_file

    export_policy(load_policy(tied_policy_folder, OPTIONS), tmp_path, dtype="bfloat16")
    names = [set(load_file(Path(folder) / "model.safetensors")) for folder in (tied_policy_folder, tmp_path)]
    assert names[0] == names[1]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(PolicyNotFoundError, match=r"config\.json"):
        load_policy(str(tmp_path), OPTIONS)


def test_an_unknown_device_is_refused(policy_folder):
    with pytest.raises(TrainOptionError, match="device 'warp'"):
        load_policy(policy_folder, replace(OPTIONS, device="warp"))


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(policy_folder, monkeypatch):
    monkeypatch.setattr("trainer.policy.head_logits", lambda model, hidden: model.get_output_embeddings()(hidden) * 2)
    with pytest.raises(PolicyMismatchError, match="changes its logits"):
        load_policy(policy_folder, OPTIONS)


def test_attention_that_crosses_packed_rollouts_is_refused(policy_folder, monkeypatch):
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def without_positions(self, *, position_ids=None, **arguments):
        return forward(self, **arguments)

    monkeypatch.setattr(LlamaModel, "forward", without_positions)
    load_policy(policy_folder, OPTIONS)
    with pytest.raises(PolicyMismatchError, match="cross packed rollouts"):
        load_policy(policy_folder, replace(OPTIONS, layout="pack"))


def test_dropout_is_off(policy_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy_folder)
    model.config.attention_dropout = 0.5
    model.save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), OPTIONS)
    (batch,) = step_of(ROWS).micro_batches
    a, b = (policy.token_outputs(batch).logprobs_N for _ in range(2))
    assert torch.equal(a, b)
