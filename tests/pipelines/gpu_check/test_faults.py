"""Each check fails where what it checks is broken: an engine that errs, keeps old weights, or leaves a process."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from contextlib import nullcontext

import pytest

import pipelines.gpu_check.engine as engine_checks
import pipelines.gpu_check.memory as memory_checks
from pipelines.engines import EngineOptions, start_engine
from pipelines.gpu_check import several
from pipelines.gpu_check.base import CheckOptions, Machine
from pipelines.gpu_check.engine import check_engine, check_reload

CPU = Machine(device="cpu")


class Erring:
    """transformers in the place of vLLM, with a fault."""

    def __init__(self, folder, options, *, shift=0.0, reloads=True):
        self._engine = start_engine(folder, EngineOptions(kind="transformers", dtype="float32"))
        self._shift, self._reloads = shift, reloads

    def submit(self, request):
        sample = self._engine.submit(request).result()
        object.__setattr__(sample, "logprobs", sample.logprobs + self._shift)
        answer: Future = Future()
        answer.set_result(sample)
        return answer

    def score(self, token_ids, *, start):
        return self._engine.score(token_ids, start=start)

    def load_weights(self, model):
        if self._reloads:
            self._engine.load_weights(model)

    def pool(self, token_ids):
        return self._engine.score(token_ids, start=1)

    asleep = dead = False

    def close(self):
        self._engine.close()


@pytest.fixture
def options(tmp_path):
    return CheckOptions(out=str(tmp_path))


@pytest.fixture
def in_place_of_vllm(monkeypatch):
    """in_place_of_vllm(shift=0.01) has the checks run an Erring engine where they start vLLM."""

    def replace(**fault):
        def start(folder, given):
            return start_engine(folder, given) if given.kind == "transformers" else Erring(folder, given, **fault)

        monkeypatch.setattr(engine_checks, "start_engine", start)

    return replace


def test_a_right_engine_passes(options, in_place_of_vllm):
    in_place_of_vllm()
    assert check_engine(CPU, options).status == "ok"
    assert check_reload(CPU, options).status == "ok"


def test_logprobs_that_are_off_are_found(options, in_place_of_vllm):
    in_place_of_vllm(shift=0.01)
    assert check_engine(CPU, options).why.startswith("sampled_difference is 0.01")


def test_weights_that_were_not_reloaded_are_found(options, in_place_of_vllm):
    in_place_of_vllm(reloads=False)
    assert check_reload(CPU, options).why.startswith("new_weights_difference is ")


def test_engines_that_are_awake_while_the_trainer_runs_are_found(options, monkeypatch):
    monkeypatch.setattr(memory_checks, "acquire", lambda folder, given: Erring(_sampler(folder), given))
    monkeypatch.setattr(memory_checks, "device_lent", nullcontext)
    assert memory_checks.check_ledger(CPU, options).why == "awake_in_update is 2, outside at most 0"


def test_a_model_that_outlives_its_update_is_found(options, monkeypatch):
    kept, load = [], memory_checks.load_policy
    monkeypatch.setattr(memory_checks, "load_policy", lambda *given: kept.append(load(*given)) or kept[-1])
    monkeypatch.setattr(memory_checks, "acquire", lambda folder, given: Erring(_sampler(folder), given))
    monkeypatch.setattr(memory_checks, "device_lent", nullcontext)
    assert "models_left is 1, outside at most 0" in memory_checks.check_ledger(CPU, options).why


def _sampler(folder):
    """In the place of a reward model, which transformers' sampling engine would not run, the policy."""
    return folder.replace("prm-", "policy-")


def test_a_process_that_outlives_the_killed_one_is_found(options, monkeypatch):
    lasting = [sys.executable, "-c", "import threading; print('up', flush=True); threading.Event().wait()"]
    leaving = (
        "import subprocess, threading\n"
        f"subprocess.Popen({lasting}, start_new_session=True, stdout=subprocess.PIPE).stdout.readline()\n"
        f"print({several.SAMPLING!r}, flush=True)\n"
        "threading.Event().wait()\n"
    )
    monkeypatch.setattr(several, "victim_command", lambda folder, machine: [sys.executable, "-c", leaving])
    monkeypatch.setattr(several, "SECONDS_TO_END", 0.5)
    result = several.check_kill(CPU, options)
    assert (result.status, result.figures["processes_left"]) == ("failed", 1)
