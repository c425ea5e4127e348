"""Options in vLLM's own names: known ones pass, others are refused with the nearest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.engines import EngineOptionError, EngineOptions, Sampling
from pipelines.engines.vllm_names import OWN_ARGUMENTS, OWN_PARAMETERS, known_names


def test_the_names_are_those_of_the_installed_classes_and_reading_them_imports_no_vllm() -> None:
    code = (
        "import sys, dataclasses; from pipelines.engines.vllm_names import known_names as k;"
        "a, s = k('engine/arg_utils.py', 'EngineArgs'), k('sampling_params.py', 'SamplingParams');"
        "assert not any(name.split('.')[0] in ('vllm', 'torch') for name in sys.modules);"
        "from vllm import EngineArgs, SamplingParams;"
        "assert a == {f.name for f in dataclasses.fields(EngineArgs) if not f.name.startswith('_')}, a;"
        "assert s == {n for n in SamplingParams.__struct_fields__ if not n.startswith('_')}, s"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_what_we_set_ourselves_exists_in_vllm() -> None:
    assert known_names("engine/arg_utils.py", "EngineArgs") >= OWN_ARGUMENTS
    assert known_names("sampling_params.py", "SamplingParams") >= OWN_PARAMETERS


def test_an_unknown_name_is_refused_at_construction_with_its_neighbour() -> None:
    with pytest.raises(EngineOptionError, match=r"extra\.blok_size is no engine argument.*did you mean 'block_size'"):
        EngineOptions(extra={"blok_size": 16})
    with pytest.raises(EngineOptionError, match=r"repetition_penlty is no sampling.*mean 'repetition_penalty'"):
        Sampling(extra={"repetition_penlty": 1.1})
    assert EngineOptions(extra={"block_size": 16}).extra == {"block_size": 16}


def test_what_has_an_option_of_its_own_is_refused_in_extra() -> None:
    with pytest.raises(EngineOptionError, match=r"extra\.dtype is set by an option of its own"):
        EngineOptions(extra={"dtype": "float16"})
    with pytest.raises(EngineOptionError, match=r"extra\.seed is set by an option of its own"):
        Sampling(extra={"seed": 3})


def test_a_bent_distribution_is_marked_and_a_further_end_is_not() -> None:
    assert Sampling(extra={"repetition_penalty": 1.1}).truncated
    assert not Sampling(extra={"stop_token_ids": [3]}).truncated
    assert "extra" not in Sampling().as_options()
    assert Sampling(extra={"min_tokens": 2}).as_options()["extra"] == {"min_tokens": 2}
