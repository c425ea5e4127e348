"""Options are checked where they are made, and say which option is wrong."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pass_ops.errors import PassError
from pipelines.engines import EngineOptionError, EngineOptions, RequestRejected, SampleRequest, Sampling


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 0.001),  # vLLM would sample at 0.01 and say nothing in the data
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("min_p", -0.1),
        ("max_tokens", 0),
        ("stop", [""]),
    ],
)
def test_a_sampling_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(EngineOptionError, match=f"{option}.* it must "):
        Sampling(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kind", "vlm"),
        ("dtype", "fp16"),
        ("logprobs_mode", "raw"),
        ("max_model_len", 1),
        ("max_num_seqs", 0),
        ("kv_cache_gib", 0.0),
        ("seed", -1),
    ],
)
def test_an_engine_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(EngineOptionError, match=f"{option} is {value!r}"):
        EngineOptions(**{option: value})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5])
def test_a_seed_outside_int64_is_refused(seed: Any) -> None:
    with pytest.raises(EngineOptionError, match="seed is"):
        SampleRequest(prompt_token_ids=[1], seed=seed, sampling=Sampling())


def test_errors_are_of_the_tree_and_of_the_standard_class() -> None:
    assert issubclass(EngineOptionError, PassError)
    assert issubclass(EngineOptionError, ValueError)


def test_one_stop_string_may_stand_alone() -> None:
    assert Sampling(stop="\n\n").stop == Sampling(stop=["\n\n"]).stop == ("\n\n",)


@pytest.mark.parametrize(
    ("sampling", "truncated", "mode"),
    [
        (Sampling(), False, "raw_logprobs"),
        (Sampling(temperature=0.0), False, "raw_logprobs"),
        (Sampling(temperature=0.7), False, "processed_logprobs"),
        (Sampling(top_p=0.9), True, "raw_logprobs"),
        (Sampling(top_k=5, temperature=0.5), True, "processed_logprobs"),
        (Sampling(min_p=0.1), True, "raw_logprobs"),
    ],
)
def test_sampling_knows_its_logprobs_mode_and_whether_it_truncates(
    sampling: Sampling, truncated: bool, mode: str
) -> None:
    assert (sampling.truncated, sampling.logprobs_mode) == (truncated, mode)


def test_a_rejection_survives_pickling() -> None:
    back = pickle.loads(pickle.dumps(RequestRejected("aborted", "after 3 tokens", True)))
    assert (back.reason, back.detail, back.transient, str(back)) == (
        "aborted",
        "after 3 tokens",
        True,
        "aborted: after 3 tokens",
    )
