"""What vLLM makes of our options on one and on eight H100s, by its own configuration stage under a faked platform."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pipelines.engines import EngineOptions
from pipelines.engines.environment import engine_environment
from pipelines.engines.gpu_defaults import GIB, gpu_defaults, parameters, seats
from pipelines.engines.vllm_arguments import engine_arguments

QWEN_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
}
PRM_7B = QWEN_7B | {"architectures": ["Qwen2ForProcessRewardModel"], "num_labels": 2}
STEP = {"pooling_type": "STEP", "step_tag_id": 151651}
ALL = {"pooling_type": "ALL", "use_activation": False}

# Every option of [engine] that reaches vLLM, by name: documented examples and values beside the default.
POLICY: dict[str, dict[str, Any]] = {
    "defaults": {},
    "dtype": {"dtype": "float32"},
    "max_num_seqs": {"max_num_seqs": 128},
    "logprobs_mode": {"logprobs_mode": "processed_logprobs"},
    "seed": {"seed": 7},
    "deterministic": {"deterministic": True},
    "kv_cache_gib": {"kv_cache_gib": 4.0},
    "extra": {"extra": {"gpu_memory_utilization": 0.8}},
    "batched tokens": {"extra": {"max_num_batched_tokens": 2048}},
    "no sleep mode": {"extra": {"enable_sleep_mode": False}},
    "model's head": {"extra": {"hf_overrides": {"head_dtype": "model"}}},
}
PRM: dict[str, dict[str, Any]] = {"pooling ALL": {"pooling": ALL}, "pooling STEP": {"pooling": STEP}}
NOT_VLLMS = {"kind", "device", "recording", "url"}  # say where and by what a model runs
LENGTH = {"max_model_len"}  # reaches vLLM as the context length


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a model that is a config.json."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        (root / name).mkdir(exist_ok=True)
        config = {"policy": QWEN_7B, "prm": PRM_7B}[name]
        (root / name / "config.json").write_text(json.dumps(config))
        return str(root / name)

    return folder


@pytest.fixture(scope="module")
def on_h100s(models: Callable[[str], str]) -> Callable[..., dict[str, dict[str, Any]]]:
    """vLLM's answers to named cases on a machine of so many GPUs."""

    def ask(gpus: int, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        asked = [
            {"model": models("prm" if "pooling" in options else "policy"), "options": options}
            for options in cases.values()
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tests.pipelines.engines.fake_cuda", str(gpus)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[3],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))

    return ask


def test_every_option_of_engine_passes_vllms_configuration_on_one_gpu(on_h100s: Callable[..., Any]) -> None:
    covered = {name for options in (*POLICY.values(), *PRM.values()) for name in options}
    documented = {field.name for field in fields(EngineOptions)}
    assert covered == documented - NOT_VLLMS - LENGTH, "an option is missing in the cases above"
    answers = on_h100s(1, POLICY | PRM | {"two GPUs": {"extra": {"tensor_parallel_size": 2}}})
    refused = {name: answer["refused"] for name, answer in answers.items() if "refused" in answer}
    assert list(refused) == ["two GPUs"], refused
    default = answers["defaults"]
    assert (default["batched_tokens"], default["seats"], default["share"]) == (8192, 512, 0.9)
    assert (default["head"], default["dtype"], default["sleep"]) == ("torch.float32", "torch.bfloat16", True)
    assert (default["v2_runner"], default["mode"]) == (True, "raw_logprobs")
    assert answers["max_num_seqs"]["seats"] == 128
    assert answers["extra"]["share"] == 0.8
    assert answers["batched tokens"]["batched_tokens"] == 2048
    assert answers["no sleep mode"]["sleep"] is False
    assert answers["model's head"]["head"] == "torch.bfloat16"
    step = answers["pooling STEP"]
    assert (step["batched_tokens"], step["chunked_prefill"], step["head"]) == (16_384, False, "torch.float32")


def test_and_on_eight_with_tensor_parallelism(on_h100s: Callable[..., Any]) -> None:
    parallel = {f"TP {size}": {"extra": {"tensor_parallel_size": size}} for size in (2, 4, 7, 8)}
    answers = on_h100s(8, POLICY | PRM | parallel)
    refused = {name: answer["refused"] for name, answer in answers.items() if "refused" in answer}
    assert list(refused) == ["TP 8"], refused
    assert "attention heads (28) must be divisible" in refused["TP 8"]
    assert answers["TP 2"]["executor"] == "mp"
    assert answers["TP 2"]["sleep"] is True


@pytest.mark.parametrize(
    ("card", "size", "pools", "expected"),
    [
        (80, 7.6e9, False, (512, 8192)),
        (80, 7.6e9, True, (512, 16_384)),
        (80, 1.54e9, False, (1024, 8192)),
        (80, 0.5e9, False, (1024, 8192)),
        (24, 0.5e9, False, (256, 4096)),
        (24, 7.6e9, True, (256, 8192)),
        (None, None, False, (512, 8192)),
    ],
)
def test_defaults_follow_from_card_and_model(
    card: float | None, size: float | None, pools: bool, expected: tuple[int, int]
) -> None:
    found = gpu_defaults(
        card=None if card is None else int(card * GIB), parameters=None if size is None else int(size), pools=pools
    )
    assert ((found.seats, found.batched_tokens), found.share) == (expected, 0.9)


def test_a_prompt_that_is_pooled_whole_fits_a_batch_whatever_its_length(tiny_model: str) -> None:
    options = EngineOptions(pooling=STEP)
    arguments = engine_arguments(tiny_model, options, device="cuda", dtype="bfloat16", context_length=32_768)
    assert arguments["max_num_batched_tokens"] == arguments["max_model_len"] == 32_768


def test_seats_are_the_options_or_the_devices(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parameters(tiny_model) is not None
    assert seats(tiny_model, EngineOptions()) == 256, "on a CPU"
    assert seats(tiny_model, EngineOptions(device="cuda")) == 1024, "a model this small on a GPU"
    assert seats(tiny_model, EngineOptions(device="cuda", max_num_seqs=3)) == 3
    assert seats(tiny_model, EngineOptions(kind="transformers", device="cuda")) == 256


def test_a_gpus_float32_head_stands_in_the_fingerprint_and_a_cpus_does_not(tiny_model: str) -> None:
    bfloat16 = {"dtype": "bfloat16", "device": "cuda"}
    assert engine_environment(tiny_model, EngineOptions(**bfloat16))["head_dtype"] == "float32"
    plain = {"extra": {"hf_overrides": {"head_dtype": "model"}}}
    assert engine_environment(tiny_model, EngineOptions(**bfloat16, **plain))["head_dtype"] == "model"
    assert "head_dtype" not in engine_environment(tiny_model, EngineOptions(dtype="float32", device="cuda"))
    assert "head_dtype" not in engine_environment(tiny_model, EngineOptions(dtype="bfloat16", device="cpu"))
