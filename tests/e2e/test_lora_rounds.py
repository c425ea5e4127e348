"""LoRA through real vLLM: the second round samples from the adapter that the first one trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.killing import finished
from tests.e2e.project import make_project
from trainer.model_folder import weights_digest

OPTIONS = ["engine.kind=vllm", "engine.dtype=float32", "engine.max_num_seqs=16", "train.lora_rank=4", "train.lr=1e-2"]


def test_vllm_samples_from_the_adapter_as_the_trainer_computes_it(tmp_path, tiny_model):
    project = make_project(tmp_path, tiny_model)
    command = ["rounds", project.config, "--out", project.out]
    for option in OPTIONS:
        command += ["--set", option]
    assert finished(command, project.out + ".log") == 0, Path(project.out + ".log").read_text()
    policies = [Path(project.out, f"round-{index:03d}", "policy") for index in range(2)]
    for policy in policies:
        config = json.loads((policy / "adapter_config.json").read_text())
        assert (config["r"], Path(config["base_model_name_or_path"])) == (4, tmp_path / "model")
        assert not (policy / "model.safetensors").exists()
    assert weights_digest(policies[0]) != weights_digest(policies[1])
    lines = [
        json.loads(Path(project.out, f"round-{index:03d}", "train", "metrics.jsonl").read_text().splitlines()[0])
        for index in range(2)
    ]
    assert lines[0]["grad_norm"] > 0
    # The adapter moved the policy, and a ratio of 1 says that vLLM sampled from it, not from the base.
    assert lines[1]["ratio_min"] == pytest.approx(1.0, abs=1e-4)
    assert lines[1]["ratio_max"] == pytest.approx(1.0, abs=1e-4)
