"""The random models are those of Qwen's shapes, whole, and the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines.engines.process_reward import Qwen2ForProcessRewardModel
from pipelines.gpu_check import models
from pipelines.gpu_check.models import SHAPES, parameters, write_model
from pipelines.models.folder import load_tokenizer, model_digest, tensor_shapes
from trainer.loading import load_model


def test_the_shapes_are_the_published_ones():
    billions = {name: round(parameters(name) / 1e9, 2) for name in SHAPES if name != "tiny"}
    assert billions == {"0.5B": 0.49, "1.5B": 1.54, "7B": 7.62}


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_loads_whole_from_several_shards(tmp_path, monkeypatch, tied):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(models, "SHARD", 20_000)
    write_model(tmp_path / "model", {**SHAPES["tiny"], "tie_word_embeddings": tied}, seed=0)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    assert ("lm_head.weight" in tensor_shapes(str(tmp_path / "model"))) is not tied
    model = load_model(AutoModelForCausalLM, tmp_path / "model", dtype=torch.float32)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    assert 0.15 < float(model.model.layers[0].mlp.up_proj.weight.std()) < 0.25


def test_a_prm_loads_whole(tmp_path):
    write_model(tmp_path / "prm", SHAPES["tiny"], seed=0, prm=True)
    config = json.loads((tmp_path / "prm" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForProcessRewardModel"]
    load_model(Qwen2ForProcessRewardModel, tmp_path / "prm", dtype=torch.float32)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_model(tmp_path / name, SHAPES["tiny"], seed=seed)
    digests = [model_digest(str(tmp_path / name)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_every_token_of_the_vocabulary_has_a_text(tmp_path):
    write_model(tmp_path / "model", SHAPES["tiny"], seed=0)
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    assert len(tokenizer) == SHAPES["tiny"]["vocab_size"]
    assert tokenizer.decode([300, 301]) == "aaOaaP"
    assert tokenizer.decode(tokenizer("12 + 3 = ?")["input_ids"]) == "12 + 3 = ?"
    assert Path(tmp_path / "model" / "tokenizer.json").exists()
