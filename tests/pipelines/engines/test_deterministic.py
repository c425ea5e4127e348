"""One rollout's bits, whatever else the engine works on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pass_ops import shards
from pipelines.engines import EngineOptionError, EngineOptions, Sample, SampleRequest, Sampling, acquire
from pipelines.engines.environment import engine_environment
from pipelines.engines.vllm_arguments import batch_invariance, engine_arguments
from pipelines.parts.operations import Operations
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptions, generate

DETERMINISTIC = EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32, deterministic=True)
PROMPTS = ("1+2=?", "a", "7+7+7=?\n" * 30, "what is the sum of 12 and 30?")


def bits(sample: Sample) -> tuple[bytes, bytes]:
    return sample.token_ids.tobytes(), sample.logprobs.tobytes()


def ask_all(engine: Any, requests: list[SampleRequest]) -> list[tuple[bytes, bytes]]:
    return [bits(future.result(timeout=300)) for future in [engine.submit(request) for request in requests]]


def test_a_rollout_has_the_same_bits_alone_in_a_crowd_and_in_another_order(tiny_model: str) -> None:
    engine = acquire(tiny_model, DETERMINISTIC)
    sampling = Sampling(max_tokens=24, ignore_eos=True)
    requests = [
        SampleRequest(prompt_token_ids=engine.tokenizer.encode(text), seed=seed, sampling=sampling)
        for text in PROMPTS
        for seed in range(3)
    ]
    crowd = ask_all(engine, requests)
    assert ask_all(engine, requests[::-1])[::-1] == crowd
    assert [ask_all(engine, [request])[0] for request in requests[::5]] == crowd[::5]
    assert len(set(crowd)) == len(crowd)


def test_parts_of_any_size_and_any_number_in_flight_make_the_same_rows(tmp_path: Path, tiny_model: str) -> None:
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "{i}+{i}=?"}}\n' for i in range(6)))
    options = GenerateOptions(group_size=2, sampling=Sampling(max_tokens=20))
    made = []
    for per_part, in_flight in ((6, 1), (1, 4)):
        prompts, out = str(tmp_path / f"prompts-{per_part}"), str(tmp_path / f"out-{per_part}")
        write_prompts(PromptSource(source=str(tmp_path / "p.jsonl"), prompts_per_part=per_part), out=prompts)
        how = Operations(parts_in_flight=in_flight)
        generate(prompts=prompts, out=out, model=tiny_model, engine=DETERMINISTIC, options=options, operations=how)
        dataset = shards.open_dataset(out)
        made.append([row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()])
    assert made[0] == made[1]


def test_it_is_part_of_what_a_dataset_says_of_its_engine(tiny_model: str) -> None:
    assert engine_environment(tiny_model, DETERMINISTIC)["deterministic"] is True
    assert "deterministic" not in engine_environment(tiny_model, replace(DETERMINISTIC, deterministic=False))


def test_a_gpu_keeps_its_batches_and_takes_batch_invariant_kernels() -> None:
    arguments = engine_arguments("m", DETERMINISTIC, device="cuda", dtype="bfloat16", context_length=512)
    assert (arguments["max_num_seqs"], arguments["enable_prefix_caching"]) == (32, False)
    assert batch_invariance(DETERMINISTIC, device="cuda") == {"VLLM_BATCH_INVARIANT": "1"}
    assert batch_invariance(DETERMINISTIC, device="cpu") == {}


def test_other_kinds_of_engine_do_not_promise_it() -> None:
    with pytest.raises(
        EngineOptionError, match="deterministic is true, but kind is 'transformers'; only kind 'vllm' can be"
    ):
        EngineOptions(kind="transformers", deterministic=True)
