"""How the models of signals are run where the signal does not say: as [engine] does."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.engines import EngineOptions
from pipelines.options import build
from pipelines.runs.config import RunConfig
from pipelines.runs.run import configured_signals

PRM = {"signal": "prm", "model": "prm"}
JUDGE = {"signal": "judge", "model": "judge"}


def engine_of(signal: dict[str, Any], engine: dict[str, Any]) -> EngineOptions:
    """The engine of a configuration's one signal under [engine]."""
    table = {"prompts": {"source": "p"}, "policy": {"model": "policy"}, "engine": engine, "signals": {"it": signal}}
    (found,) = configured_signals(build(RunConfig, table, where="test"))["it"].engines().values()  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("signal", [PRM, JUDGE], ids=["prm", "judge"])
def test_a_model_beside_the_policy_runs_on_its_device_with_its_library(signal: dict[str, Any]) -> None:
    policy = {
        "kind": "transformers",
        "device": "cuda",
        "dtype": "bfloat16",
        "max_num_seqs": 7,
        "max_model_len": 128,
        "seed": 3,
        "extra": {"batch_size": 4},
    }
    found = engine_of(signal, policy)
    assert (found.kind, found.device, found.dtype, found.max_num_seqs) == ("transformers", "cuda", "bfloat16", 7)
    assert found.extra == {"batch_size": 4}
    assert (found.max_model_len, found.seed) == (None, 0), "those are the policy's own"


@pytest.mark.parametrize("signal", [PRM, JUDGE], ids=["prm", "judge"])
def test_extras_that_change_results_and_engines_that_run_the_policy_alone_are_not_inherited(
    signal: dict[str, Any],
) -> None:
    extra = {"gpu_memory_utilization": 0.8, "hf_overrides": {"rope_theta": 1e6}, "tensor_parallel_size": 2}
    assert engine_of(signal, {"extra": extra}).extra == {"gpu_memory_utilization": 0.8}
    for kind in ({"kind": "server", "url": "http://127.0.0.1:1"}, {"kind": "recorded", "recording": "synthetic:0"}):
        found = engine_of(signal, kind)
        assert (found.kind, found.url, found.recording, found.extra) == ("vllm", None, None, {})


@pytest.mark.parametrize("signal", [PRM, JUDGE, {"signal": "logprobs", "model": "teacher"}], ids=lambda s: s["signal"])
def test_an_engine_of_ones_own_keeps_its_options_and_takes_the_device_it_does_not_name(signal: dict[str, Any]) -> None:
    policy = {"device": "cuda", "max_num_seqs": 7}
    own = engine_of(signal | {"engine": {"max_model_len": 99}}, policy)
    assert (own.device, own.max_model_len, own.max_num_seqs) == ("cuda", 99, None)
    assert engine_of(signal | {"engine": {"device": "cpu"}}, policy).device == "cpu"


def test_a_judge_on_a_server_runs_nothing_here() -> None:
    table = {
        "prompts": {"source": "p"},
        "policy": {"model": "policy"},
        "signals": {"it": JUDGE | {"url": "http://host:1/v1"}},
    }
    signal: Any = configured_signals(build(RunConfig, table, where="test"))["it"]
    assert signal.engines() == {}
