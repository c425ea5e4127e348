"""LoRA adapters as policies: vLLM with an adapter is the merged model, and one engine serves several."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pass_ops import shards
from pipelines.engines import (
    EngineOptionError,
    EngineOptions,
    RequestRejected,
    SampleRequest,
    Sampling,
    acquire,
    start_engine,
)
from pipelines.models.adapters import read_adapter
from pipelines.models.folder import ModelFilesError, architecture, describe_model, load_tokenizer, model_digest
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptions, generate
from tests.pipelines.adapters import make_adapter, merge
from tests.pipelines.engines.asking import RAW
from trainer.errors import AdapterError
from trainer.model_folder import is_adapter


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: str) -> str:
    return make_adapter(tmp_path / "adapter", base=tiny_model, seed=5)


def logprobs(folder: str, ids: list[int], start: int) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
    return rows[torch.arange(len(ids) - start), torch.tensor(ids[start:])].numpy()


def sampled(engine: Any, seed: int) -> tuple[list[int], np.ndarray]:
    prompt = engine.tokenizer.encode("1+2=?")
    asked = SampleRequest(prompt_token_ids=prompt, seed=seed, sampling=Sampling(max_tokens=30))
    sample = engine.submit(asked).result(timeout=120)
    return [*prompt, *sample.token_ids.tolist()], sample.logprobs


def test_one_engine_serves_an_adapter_its_base_and_another_adapter(
    tmp_path: Path, tiny_model: str, adapter: str
) -> None:
    other = make_adapter(tmp_path / "other", base=tiny_model, seed=6)
    engine = acquire(adapter, RAW)
    seen = []
    for policy in (adapter, tiny_model, other, adapter):
        assert acquire(policy, RAW) is engine, "switching starts nothing"
        ids, found = sampled(engine, 3)
        whole = policy if policy == tiny_model else merge(policy, tiny_model, tmp_path / f"merged-{len(seen)}")
        expected = logprobs(whole, ids, start=5)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(engine.score(ids, start=5).result(timeout=120), expected, atol=1e-4)
        seen.append(ids)
    assert seen[0] == seen[3]
    assert len({tuple(ids) for ids in seen}) == 3


def test_rollouts_of_adapter_and_base_are_scored_side_by_side(tmp_path: Path, tiny_model: str, adapter: str) -> None:
    """vLLM 0.32 with room for an adapter of lm_head fails on the second."""
    rng = np.random.default_rng(0)
    rollouts = [rng.integers(2, 40, size=n).tolist() for n in (2, 3, 17, 60)]
    for policy, whole in ((adapter, merge(adapter, tiny_model, tmp_path / "merged")), (tiny_model, tiny_model)):
        engine = acquire(policy, RAW)
        futures = [engine.score(ids, start=1) for ids in rollouts]
        for ids, future in zip(rollouts, futures, strict=True):
            np.testing.assert_allclose(future.result(timeout=120), logprobs(whole, ids, start=1), atol=1e-4)


def test_an_adapter_of_lm_head_samples_and_is_not_scored(tmp_path: Path, tiny_model: str) -> None:
    head = make_adapter(tmp_path / "head", base=tiny_model, seed=5, modules=("q_proj", "lm_head"))
    assert read_adapter(head).modules == {"q_proj", "lm_head"}
    engine = acquire(head, RAW)
    ids, found = sampled(engine, 3)
    np.testing.assert_allclose(found, logprobs(merge(head, tiny_model, tmp_path / "m"), ids, start=5), atol=1e-4)
    with pytest.raises(RequestRejected, match="adapter of lm_head; merge the adapter"):
        engine.score(ids, start=5).result(timeout=120)


def test_an_adapter_of_another_base_gets_that_base(tmp_path: Path, tiny_model_updated: str, adapter: str) -> None:
    acquire(adapter, RAW)
    moved = make_adapter(tmp_path / "moved", base=tiny_model_updated, seed=5)
    ids, found = sampled(acquire(moved, RAW), 3)
    np.testing.assert_allclose(
        found, logprobs(merge(moved, tiny_model_updated, tmp_path / "m"), ids, start=5), atol=1e-4
    )


def test_a_run_has_rollouts_of_several_policies_each_under_its_own_digest(
    tmp_path: Path, tiny_model: str, adapter: str
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+2=?"}\n')
    write_prompts(PromptSource(source=str(tmp_path / "p.jsonl")), out=str(tmp_path / "prompts"))
    options = GenerateOptions(group_size=4, sampling=Sampling(max_tokens=12))
    digests = set()
    for name, policy in (("adapted", adapter), ("base", tiny_model)):
        out = str(tmp_path / name)
        generate(prompts=str(tmp_path / "prompts"), out=out, model=policy, engine=RAW, options=options)
        dataset = shards.open_dataset(out)
        assert dataset.spec.carried["policy_digest"] == model_digest(policy)
        digests.add(dataset.spec.carried["policy_digest"])
        for row in dataset.read_part(0).to_pylist():
            whole = merge(adapter, tiny_model, tmp_path / row["rollout_id"]) if name == "adapted" else policy
            ids, start = [*row["prompt_token_ids"], *row["token_ids"]], len(row["prompt_token_ids"])
            np.testing.assert_allclose(row["behavior_logprobs"], logprobs(whole, ids, start), atol=1e-4)
    assert len(digests) == 2


def test_the_digest_is_of_adapter_and_base_and_not_of_their_places(
    tmp_path: Path, tiny_model: str, tiny_model_updated: str, adapter: str
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "copy" / "base")
    moved = make_adapter(tmp_path / "copy" / "adapter", base=str(base), seed=5, named="../base")
    assert model_digest(moved) == model_digest(adapter)
    other_base = make_adapter(tmp_path / "other-base", base=tiny_model_updated, seed=5)
    other_adapter = make_adapter(tmp_path / "other-adapter", base=tiny_model, seed=6)
    assert len({model_digest(folder) for folder in (adapter, other_base, other_adapter, tiny_model)}) == 4
    content = json.loads((Path(moved) / "adapter_config.json").read_text())
    (Path(moved) / "adapter_config.json").write_text(json.dumps(content | {"lora_alpha": 32}))
    assert model_digest(moved) != model_digest(adapter)


def test_tokenizer_and_vocabulary_are_the_bases(tiny_model: str, adapter: str) -> None:
    ours, theirs = describe_model(adapter), describe_model(tiny_model)
    assert (ours.tokenizer_digest, ours.vocabulary) == (theirs.tokenizer_digest, theirs.vocabulary)
    assert load_tokenizer(adapter).encode("1+2") == load_tokenizer(tiny_model).encode("1+2")


def test_an_engine_without_room_for_the_adapter_is_not_the_one_for_it(tiny_model: str, adapter: str) -> None:
    assert "adapter of rank 4, and there is room for rank 0" in str(
        architecture(tiny_model).difference(architecture(adapter))
    )
    assert architecture(adapter).difference(architecture(tiny_model)) is None


def test_an_engine_without_room_for_the_adapters_modules_is_not_the_one_for_it(
    tmp_path: Path, tiny_model: str, adapter: str
) -> None:
    wider = make_adapter(tmp_path / "wider", base=tiny_model, seed=5, modules=("q_proj", "o_proj", "up_proj"))
    assert "it adapts o_proj, up_proj, and there is room for ['down_proj', 'q_proj', 'v_proj']" in str(
        architecture(adapter).difference(architecture(wider))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": "Qwen/none"}, "no model folder on this machine. Set base_model_name_or_path"),
        ({"peft_type": "IA3"}, "adapter of type IA3"),
        ({"r": None}, "not readable as peft's"),
    ],
)
def test_a_folder_that_is_no_usable_adapter_is_refused_by_name(adapter: str, change: dict, message: str) -> None:
    file = Path(adapter) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(AdapterError, match=message):
        model_digest(adapter)


def test_sampler_and_trainer_agree_on_what_is_an_adapter(tiny_model: str, adapter: str) -> None:
    digest = model_digest(adapter)
    shutil.copy(Path(tiny_model) / "config.json", adapter)  # as many published adapters have it
    assert read_adapter(adapter) is not None
    assert is_adapter(adapter)
    assert model_digest(adapter) == digest
    shutil.copy(Path(tiny_model) / "model.safetensors", adapter)
    for question in (read_adapter, is_adapter, model_digest):
        with pytest.raises(AdapterError, match="a whole model"):
            question(adapter)


def test_an_adapter_whose_matrices_are_cut_short_is_refused(adapter: str) -> None:
    file = Path(adapter) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelFilesError, match=r"adapter_model\.safetensors is not a readable"):
        read_adapter(adapter)


def test_an_adapter_without_its_matrices_is_refused(adapter: str) -> None:
    (Path(adapter) / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="safe_serialization"):
        read_adapter(adapter)


def test_the_plain_engine_says_that_it_runs_no_adapter(adapter: str) -> None:
    with pytest.raises(EngineOptionError, match="run it by kind vllm"):
        start_engine(adapter, EngineOptions(kind="transformers"))
