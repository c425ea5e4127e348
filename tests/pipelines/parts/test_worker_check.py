"""A worker that would make other bytes than the fingerprint says is refused before its first part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pass_ops.shards import DatasetSpec, ModelRef
from pipelines.cli.parser import main
from pipelines.engines import EngineOptions, start_engine
from pipelines.engines.base import EngineStartError
from pipelines.parts import worker_check
from pipelines.parts.worker_check import WorkerMismatchError, check_worker
from pipelines.rollouts import stage as rollouts_stage
from pipelines.signals import stage as signals_stage
from tests.e2e.project import make_project

SPEC = DatasetSpec(
    stage="score",
    stage_version=1,
    options={"code": {"mine:Signal": "1" * 64}},
    parts=1,
    models={"policy": ModelRef("folder", "2" * 64)},
    environment={"vllm": "0.32.0", "device": "cuda"},
)


@pytest.fixture
def project(tmp_path, tiny_model):
    return make_project(tmp_path, tiny_model)


def test_a_worker_like_the_client_is_taken():
    check_worker(
        SPEC,
        environment={"vllm": "0.32.0", "device": "cuda"},
        models={"policy": "2" * 64},
        code={"mine:Signal": "1" * 64},
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"environment": {"vllm": "0.33.0"}}, "environment vllm is '0.33.0' on .* fingerprint says '0.32.0'"),
        ({"environment": {"xformers": "1"}}, "environment xformers is '1' .* says None"),
        ({"environment": {}, "models": {"policy": "3" * 64}}, "models policy is '333"),
        ({"environment": {}, "code": {"mine:Signal": "4" * 64}}, "code mine:Signal is '444"),
    ],
)
def test_another_image_other_weights_or_other_code_are_refused(found, expected):
    with pytest.raises(WorkerMismatchError, match=expected):
        check_worker(SPEC, **found)


def test_generate_stops_where_a_workers_library_is_another(project, monkeypatch, capsys):
    monkeypatch.setattr(rollouts_stage, "check_worker", _with_other("numpy"))
    assert main(["generate", project.config, "--out", project.out]) == 1
    assert "environment numpy is 'another'" in capsys.readouterr().err


def test_score_stops_where_a_workers_code_is_another(project, monkeypatch, capsys):
    module = Path(project.config).with_name("own_checks.py")
    module.write_text(
        "from pipelines.verifiers import Verdict\ndef judge(text, answer): return Verdict(correct=True)\n"
    )
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.delitem(sys.modules, "own_checks", raising=False)
    assert main(["generate", project.config, "--out", project.out]) == 0
    check = worker_check.check_worker

    def changed_after_submission(spec, **found):
        module.write_text(module.read_text() + "# changed\n")
        found["code"] = dict.fromkeys(found["code"], "0" * 64)
        check(spec, **found)

    monkeypatch.setattr(signals_stage, "check_worker", changed_after_submission)
    command = ["score", project.config, "--out", project.out, "--signal", "outcome"]
    assert main([*command, "--set", "signals.outcome.verifier=own_checks:judge"]) == 1
    assert "code own_checks:judge is '000" in capsys.readouterr().err


def test_an_engine_on_another_device_than_the_one_named_does_not_start(tiny_model):
    with pytest.raises(EngineStartError, match=r"engine\.device is cuda, but .* computes on cpu"):
        start_engine(tiny_model, EngineOptions(kind="transformers", device="cuda", dtype="float32"))


def _with_other(library):
    def check(spec, *, environment, **found):
        check_worker(spec, environment=environment | {library: "another"}, **found)

    return check
