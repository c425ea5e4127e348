"""The engines that the checks start on a GPU pass vLLM's own configuration stage, on faked H100s."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.engines.machine import GIB, Gpu, Memory
from pipelines.gpu_check import models
from pipelines.gpu_check.base import CheckOptions, Machine
from pipelines.gpu_check.engine import HEADS, engine_options
from pipelines.gpu_check.memory import PRM_POOLING
from pipelines.gpu_check.sampling import CONTEXT, SEATS, sampling_engine
from pipelines.gpu_check.several import PARALLEL

H100 = Gpu(index=0, name="H100", memory=Memory(free=79 * GIB, total=80 * GIB))
GPU = Machine(device="cuda", gpus=(H100, replace(H100, index=1)), driver="580.95.05")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What vLLM makes of each check's engine: name -> answer."""
    options = CheckOptions(out=str(tmp_path_factory.mktemp("gpu-check")))
    policy, prm = (models.model_folder(replace(GPU, device="cpu"), options, "tiny", prm=prm) for prm in (False, True))
    plain = engine_options(GPU, dtype="float32")
    cases = {
        "engine": (policy, plain),
        "reload": (policy, engine_options(GPU, dtype="float32", graphs=True)),
        "prm": (prm, replace(plain, pooling=PRM_POOLING)),
        "parallel": (policy, replace(plain, extra={**plain.extra, **PARALLEL})),
        "generate": (policy, sampling_engine(max(SEATS["cuda"]))),
        **{head: (policy, engine_options(GPU, dtype="bfloat16", head=head)) for head in HEADS},
    }
    asked = [
        {"model": folder, "options": _given(engine), "length": engine.max_model_len or CONTEXT}
        for folder, engine in cases.values()
    ]
    command = [sys.executable, "-m", "tests.pipelines.engines.fake_cuda", "2"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))


def _given(engine):
    """Its options that reach vLLM."""
    ours = ("kind", "device", "recording", "url", "max_model_len")
    return {name: value for name, value in asdict(engine).items() if name not in ours}


def test_none_is_refused(answers):
    assert {name: answer["refused"] for name, answer in answers.items() if "refused" in answer} == {}


def test_they_are_what_the_checks_are_about(answers):
    assert (answers["bfloat16"]["head"], answers["float32"]["head"]) == ("torch.bfloat16", "torch.float32")
    assert answers["parallel"]["executor"] == "mp"
    assert answers["generate"]["seats"] == 512
    assert (answers["engine"]["dtype"], answers["engine"]["sleep"]) == ("torch.float32", True)
